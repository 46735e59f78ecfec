"""The quickstart: a zoo, learners, their evaluation and a report page, from embedded data."""
