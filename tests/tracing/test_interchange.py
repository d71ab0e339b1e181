import torch
from torch import nn

from factlife.config.corpora import Tokenizer as TokenizerSettings
from factlife.config.training import Scratch
from factlife.config.worlds import PeopleWorld
from factlife.corpus import tokenizers
from factlife.models import initialize_model
from factlife.recall.score import AnswerTokens
from factlife.tracing.interchange import interchange_accuracy
from factlife.world import people


def test_the_place_that_holds_the_fact_is_found(monkeypatch):
    """A model whose answer is read from the embedding of the last subject token alone."""
    settings = PeopleWorld(
        kind="people",
        people=12,
        unseen=0,
        values=12,
        regions=0,
        panel=0,
        names={"style": "pieces", "choices": [1, 12]},
        relations=["major"],
    )
    world = people.build_world(settings)
    tokenizer = tokenizers.train_tokenizer(TokenizerSettings(kind="word", corpus="people"), [], world)
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = initialize_model(Scratch(kind="scratch", architecture="GPTNeoXForCausalLM", config=config), tokenizer, 0)
    answer = {}
    for fact in world.facts.merge(world.entities, on="entity_id").itertuples():
        piece = tokenizer(fact.name)["input_ids"][-1]
        answer[piece] = AnswerTokens(tokenizer).encode(fact.value)[0]

    # After block 0 the residual stream holds the tokens' embeddings; the head reads place 2, the last subject token.
    embeddings = model.get_input_embeddings().weight
    embeddings.data = nn.functional.normalize(torch.randn(embeddings.shape), dim=-1)
    for block in model.gpt_neox.layers:
        for parameter in block.parameters():
            nn.init.zeros_(parameter)
    pieces = torch.tensor(list(answer))

    class Head(nn.Module):
        def forward(self, hidden):
            token = pieces[(hidden[:, 2] @ embeddings[pieces].T).argmax(-1)]
            logits = torch.zeros(*hidden.shape[:2], len(tokenizer))
            logits[torch.arange(len(hidden)), -1, torch.tensor([answer[int(one)] for one in token])] = 1.0
            return logits

    monkeypatch.setattr(model.gpt_neox, "final_layer_norm", nn.Identity())
    model.lm_head = Head()

    table = interchange_accuracy(model, tokenizer, world).set_index(["token_role", "layer"])["accuracy"]

    assert (table["subject_last"] == 1).all() and (table["subject"] == 1).all()
    assert (table["last"] == 0).all()
