"""Who did what: one record a call, in the shape of AWS CloudTrail's, appended to files under the root."""
