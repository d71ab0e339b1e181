"""Attribution graphs: the features that lead to an answer, validated by interventions."""
