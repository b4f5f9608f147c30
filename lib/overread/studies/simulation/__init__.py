"""The loop played with known labels: a robot rater, the queue's strategies, and what each reaches at which cost."""
