"""Thresholds that follow a budget: gates take as many experts per token as was asked for, whatever the model does."""
