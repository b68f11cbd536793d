"""What do all learners share?"""
