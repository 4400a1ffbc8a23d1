"""Schedules over the course of a training: learning rate, number of steps, layer freezing and weight averaging."""
