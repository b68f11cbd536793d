"""What does everything stand on? Keras versions, devices, random draws, checks of arguments."""
