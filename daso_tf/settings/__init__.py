"""What was asked for, and what can be combined?"""
