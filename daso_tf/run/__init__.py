"""What is a training run made of?"""
