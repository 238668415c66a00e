"""HTTP: functions, calls and the log itself."""
