"""What at least two of relay, admin and worker need; nothing else may move in."""
