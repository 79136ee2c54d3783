"""What is not known when it must be decided: how long a job runs, how many servers inference will need."""
