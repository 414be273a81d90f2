"""What other people's models and loops need: captured layers, several processes, saving."""
