"""`agentrl/SQL-v0`: questions about seeded databases, or about databases and questions of one's own in files.

The environment is `env.SqlEnv`. Nothing is imported here: the workers that execute answers load `judge` alone.
"""
