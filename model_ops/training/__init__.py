"""Objectives on TRL's trainers, one readable file each, launched as Ray Train jobs."""
