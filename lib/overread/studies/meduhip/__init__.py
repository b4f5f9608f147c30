"""The second paper's experiment: does a clinician get what they want sooner, and than what (MedUHIP section 4)?"""
