"""Logs of robots as sources: MCAP files and rosbag2's folders and SQLite files."""
