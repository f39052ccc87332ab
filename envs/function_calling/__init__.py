"""Function calling: tasks in the form of the Berkeley Function Calling Leaderboard."""
