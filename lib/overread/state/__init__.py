"""What must survive a restart and is no file of voxels: one database, SQLite by default, PostgreSQL by URL."""
