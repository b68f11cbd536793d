"""What does the person at the terminal want? One file for each command."""
