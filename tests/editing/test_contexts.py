import pandas as pd

from factlife.editing.editable import sample_context_templates


def test_contexts_are_whole_sentences_about_others_before_cut_ones():
    texts = ["Ann Lee was born in Rome . And more .", "Bob Ray was born in Oslo . And more .", "Too short ."]
    long = "one two three four five six seven eight nine ten eleven twelve thirteen . End ."
    documents = pd.DataFrame({"text": [*texts, long]})

    found = sample_context_templates(documents, ["Ann Lee"])

    assert found == ["Bob Ray was born in Oslo .", "one two three four five six seven eight nine ten eleven twelve ."]
    assert sample_context_templates(documents, ["Ann Lee"], n_templates=1) == found[:1]
    assert sample_context_templates(pd.DataFrame({"text": ["The cat sat down. Then it slept."]}), []) == [
        "The cat sat down."
    ]
