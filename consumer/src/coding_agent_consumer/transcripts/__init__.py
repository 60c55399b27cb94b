"""Transcripts that outlive the attempt: in a folder, and in a bucket where one is configured."""
