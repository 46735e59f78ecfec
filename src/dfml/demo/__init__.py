"""The quickstart: a zoo, learners, their evaluation and a report page from data that is drawn, not downloaded."""
