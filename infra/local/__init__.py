"""The local run: the template's functions, tables, queues, streams and schedules in one process, without AWS."""
