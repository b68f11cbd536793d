"""What depends on the Keras version or on the device?"""
