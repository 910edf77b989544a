-- The store: tables, views and macros, in the order of the data's path.
--
-- Schema `base` holds what is written; how it is laid out may change with the version below.
-- Schema `main` holds the views and macros that people use; their names are a promise.
-- A direct effect is a component's term in the centred logit of a token, at frozen final scale:
-- `toward_next` for the token that follows (NULL where nothing follows), `toward_top` for the
-- model's own first choice. Layers, heads and neurons are numbered from 0, as in TransformerLens.

CREATE SCHEMA base;

CREATE TABLE base.version (version INTEGER NOT NULL);
COMMENT ON TABLE base.version IS 'One row: the version of this schema. `annotate upgrade` converts a store of an older one.';
INSERT INTO base.version VALUES (11);

CREATE TYPE owner AS ENUM ('store', 'tokenizer', 'model', 'corpus', 'run');
CREATE TYPE norm AS ENUM ('LayerNorm', 'RMSNorm');
CREATE TYPE component AS ENUM ('embed', 'pos_embed', 'attn', 'mlp', 'final_bias');
CREATE TYPE component_detail AS ENUM ('attn_bias', 'mlp_bias', 'mlp_remainder', 'mlp_remainder_abs');
CREATE TYPE side AS ENUM ('high', 'low');
CREATE TYPE run_status AS ENUM ('running', 'finished');
CREATE TYPE unit_kind AS ENUM ('neuron', 'head', 'feature');
CREATE MACRO base.unit_name(kind, layer, unit) AS 'L' || layer || CASE kind WHEN 'neuron' THEN 'N' WHEN 'head' THEN 'H' WHEN 'feature' THEN 'F' END || unit;
CREATE TYPE unit_list AS ENUM ('high', 'low', 'window');
CREATE TYPE attention_behaviour AS ENUM ('self', 'previous', 'first', 'entropy', 'duplicate', 'induction');

-- The catalogue has a row for each table, written beside its CREATE. Whatever reads or writes all tables (inserts,
-- deletions, export, verification, tests) is made from it.
CREATE TABLE base.catalogue (
    name        VARCHAR   NOT NULL,
    owner       owner     NOT NULL,
    key         VARCHAR[] NOT NULL,
    ordered_by  VARCHAR[] NOT NULL,
    is_replaced BOOLEAN   NOT NULL,
    owned       VARCHAR
);
COMMENT ON TABLE base.catalogue IS 'One row per table of schema base. owner: what its rows are deleted and exported with; key: the columns that no two rows have alike; ordered_by: the order in which the rows of one commit are stored (empty: as they come); is_replaced: a commit replaces the owner''s rows; owned: the condition that picks the rows of owner number $id; NULL: the owner''s number is a column (run_id = $id).';
INSERT INTO base.catalogue VALUES ('version', 'store', [], [], false, NULL);
INSERT INTO base.catalogue VALUES ('catalogue', 'store', ['name'], [], false, NULL);

CREATE TABLE base.checksum (
    owner    owner   NOT NULL,
    owner_id INTEGER NOT NULL,
    name     VARCHAR NOT NULL,
    shard    INTEGER NOT NULL,
    rows     BIGINT  NOT NULL,
    checksum HUGEINT NOT NULL
);
COMMENT ON TABLE base.checksum IS 'One row per table of an owner and shard (0 where its rows come in no shards): a sum over the content of its rows, in any order. No command fills it yet.';
INSERT INTO base.catalogue VALUES ('checksum', 'store', ['owner', 'owner_id', 'name', 'shard'], [], false, NULL);

-- Constants of the layout. They are defined here alone: store/layout.py reads them from this file.
CREATE MACRO base.positions_a_run() AS 1000000000000; -- position_id = (run_id - 1) * this + ordinal
CREATE MACRO base.documents_a_corpus() AS 1000000000; -- document_id likewise
CREATE MACRO base.passages_a_document() AS 262144; -- passage_id = document_id * this + number
CREATE MACRO base.passage_characters() AS 8192; -- a passage's own, in characters
CREATE MACRO base.passage_reach() AS 4096; -- and those that it has of the next passage
CREATE MACRO base.neurons_a_part() AS 128; -- neurons in a row of base.neuron_code
CREATE MACRO base.code_of_kept() AS 31; -- the code of a neuron that base.neuron has
CREATE MACRO base.steps_a_logit() AS 8388608; -- 2^23
CREATE MACRO base.steps_a_value() AS 67108864; -- 2^26
CREATE MACRO base.steps_a_square() AS 1048576; -- 2^20
CREATE MACRO base.steps_of_attention() AS 1073741824; -- 2^30

-- 1. What was run: model, tokenizer, corpus, run -----------------------------------------------

CREATE TABLE base.tokenizer (tokenizer_id INTEGER NOT NULL, sha256 VARCHAR NOT NULL, spells VARCHAR NOT NULL);
COMMENT ON TABLE base.tokenizer IS 'One row per tokenizer; revisions of a model share theirs. spells: what the bytes of a text''s tokens are: text, the text''s own; NFC, those of the composed text; other, of a text changed otherwise (lower-cased, a space added, characters dropped).';
INSERT INTO base.catalogue VALUES ('tokenizer', 'tokenizer', ['tokenizer_id'], [], false, NULL);

CREATE TABLE base.token (
    tokenizer_id INTEGER NOT NULL,
    token_id     INTEGER NOT NULL,
    token        VARCHAR NOT NULL,
    bytes        BLOB    NOT NULL,
    is_special   BOOLEAN NOT NULL
);
COMMENT ON TABLE base.token IS 'One row per token of a tokenizer; is_special: a BOS, padding or the like, by the tokenizer''s own account.';
INSERT INTO base.catalogue VALUES ('token', 'tokenizer', ['tokenizer_id', 'token_id'], ['token_id'], false, NULL);

CREATE TABLE base.model (
    model_id          INTEGER NOT NULL,
    tokenizer_id      INTEGER NOT NULL,
    model             VARCHAR NOT NULL,
    revision          VARCHAR,
    step              INTEGER,
    weights_sha256    VARCHAR NOT NULL,
    config            VARCHAR,
    n_layers          INTEGER NOT NULL,
    n_heads           INTEGER NOT NULL,
    d_model           INTEGER NOT NULL,
    d_head            INTEGER NOT NULL,
    d_mlp             INTEGER NOT NULL,
    d_vocab           INTEGER NOT NULL,
    n_ctx             INTEGER NOT NULL,
    parallel_residual BOOLEAN NOT NULL,
    family            VARCHAR NOT NULL,
    norm              norm    NOT NULL,
    activation        VARCHAR NOT NULL
);
COMMENT ON TABLE base.model IS 'One row per model: weights, settings and tokenizer, and the revision where the hub has one. config: the settings of its config.json that change values, as JSON; NULL where version 8 of this schema did not record them. model, revision: the name that it was stored under first; one from a folder takes the first revision that it is asked for by.';
INSERT INTO base.catalogue VALUES ('model', 'model', ['model_id'], [], false, NULL);

CREATE TABLE base.layer_bias (
    model_id INTEGER  NOT NULL,
    layer    UTINYINT NOT NULL,
    token_id INTEGER  NOT NULL,
    attn     FLOAT    NOT NULL,
    mlp      FLOAT    NOT NULL
);
COMMENT ON TABLE base.layer_bias IS 'One row per layer and token of a model: ⟨b_O, u⟩ (with the folded value biases) and ⟨b_out, u⟩, u the token''s column of W_U. Over a position''s σ they are its effects: of a token, not of a position, and stored once.';
INSERT INTO base.catalogue VALUES ('layer_bias', 'model', ['model_id', 'layer', 'token_id'], ['token_id', 'layer'], false, NULL);

CREATE TABLE base.neuron_direction (
    model_id INTEGER   NOT NULL,
    layer    UTINYINT  NOT NULL,
    neuron   UINTEGER  NOT NULL,
    W_out    FLOAT[]   NOT NULL
);
COMMENT ON TABLE base.neuron_direction IS 'One row per neuron of a model of which a run keeps all neurons: what it writes, its row of W_out.';
INSERT INTO base.catalogue VALUES ('neuron_direction', 'model', ['model_id', 'layer', 'neuron'], ['layer', 'neuron'], false, NULL);

CREATE TABLE base.token_direction (
    model_id INTEGER NOT NULL,
    token_id INTEGER NOT NULL,
    u        FLOAT[] NOT NULL
);
COMMENT ON TABLE base.token_direction IS 'One row per token that is a target in such a run: its column of W_U, less the mean over d_model. A neuron''s effect is activation · ⟨W_out, u⟩ / σ.';
INSERT INTO base.catalogue VALUES ('token_direction', 'model', ['model_id', 'token_id'], ['token_id'], false, NULL);

CREATE TABLE base.corpus (
    corpus_id  INTEGER NOT NULL,
    sha256     VARCHAR NOT NULL,
    documents  BIGINT  NOT NULL,
    characters BIGINT  NOT NULL,
    sources    VARCHAR[] NOT NULL
);
COMMENT ON TABLE base.corpus IS 'One row per corpus: sha256 is over every document''s text and metadata, in order.';
INSERT INTO base.catalogue VALUES ('corpus', 'corpus', ['corpus_id'], [], false, NULL);

CREATE TABLE base.document (
    corpus_id   INTEGER NOT NULL,
    document_id BIGINT  NOT NULL,
    source      VARCHAR NOT NULL,
    text        VARCHAR NOT NULL USING COMPRESSION uncompressed, -- zstd, DuckDB's own choice: contexts take five times as long
    sha256      VARCHAR NOT NULL,
    metadata    JSON    NOT NULL
);
COMMENT ON TABLE base.document IS 'One row per document of a corpus that a run has reached; document_id is unique in the store.';
INSERT INTO base.catalogue VALUES ('document', 'corpus', ['document_id'], ['document_id'], false, NULL);
CREATE INDEX document_by_id ON base.document (document_id);

CREATE TABLE base.passage (
    passage_id BIGINT  NOT NULL,
    text       VARCHAR NOT NULL USING COMPRESSION uncompressed
);
COMMENT ON TABLE base.passage IS 'One row per 8,192 characters of a document: these and the 4,096 after them, so that what stands around a position is read without walking through all of the text before it.';
INSERT INTO base.catalogue VALUES ('passage', 'corpus', ['passage_id'], ['passage_id'], false, 'base.document_of_passage(passage_id) IN (SELECT document_id FROM base.document WHERE corpus_id = $id)');
CREATE INDEX passage_by_id ON base.passage (passage_id);
CREATE MACRO base.passage_of(place) AS place // base.passage_characters();
CREATE MACRO base.passage_id(document_id, place) AS document_id * base.passages_a_document() + base.passage_of(place);
CREATE MACRO base.document_of_passage(passage_id) AS passage_id // base.passages_a_document();
CREATE MACRO base.excerpt(passage, first, characters) AS substring(passage, first % base.passage_characters() + 1, characters); -- base.passage_reach() or fewer
-- Of any length: of each passage what is wanted of its own characters, cut before they are put together.
CREATE MACRO base.span(document_id, low, high) AS (
    SELECT string_agg(substring(s_.text, greatest(low - place_, 0) + 1, least(high - place_, base.passage_characters()) - greatest(low - place_, 0)),
                      '' ORDER BY place_)
    FROM (SELECT unnest(generate_series(base.passage_of(low), base.passage_of(high))) * base.passage_characters() AS place_) i_
    JOIN base.passage s_ ON s_.passage_id = base.passage_id(document_id, place_)
);

CREATE TABLE base.run (
    run_id     INTEGER    NOT NULL,
    model_id   INTEGER    NOT NULL,
    corpus_id  INTEGER    NOT NULL,
    identity   VARCHAR    NOT NULL,
    settings   JSON       NOT NULL,
    libraries  JSON       NOT NULL,
    processing JSON       NOT NULL,
    list_size  INTEGER    NOT NULL,
    samples    INTEGER    NOT NULL,
    status     run_status NOT NULL,
    started    TIMESTAMPTZ NOT NULL,
    finished   TIMESTAMPTZ
);
COMMENT ON TABLE base.run IS 'One row per run; identity is the sha256 of all its provenance but names: those of the model, its revision, and where the corpus lies.';
INSERT INTO base.catalogue VALUES ('run', 'run', ['run_id'], [], false, NULL);

CREATE TABLE base.shard (
    run_id            INTEGER  NOT NULL,
    shard             INTEGER  NOT NULL,
    first_position_id BIGINT   NOT NULL,
    last_position_id  BIGINT   NOT NULL,
    windows           BIGINT   NOT NULL,
    positions         BIGINT   NOT NULL,
    special_positions BIGINT   NOT NULL,
    contributions     BIGINT   NOT NULL,
    heads      BIGINT   NOT NULL,
    head_sources      BIGINT   NOT NULL,
    neurons    BIGINT   NOT NULL,
    lens              BIGINT   NOT NULL,
    worst_closure     DOUBLE   NOT NULL,
    worst_closure_ratio DOUBLE NOT NULL,
    next_document     BIGINT   NOT NULL,
    document_position BIGINT   NOT NULL,
    document_window   BIGINT   NOT NULL,
    next_window       BIGINT   NOT NULL,
    seconds           DOUBLE   NOT NULL,
    committed         TIMESTAMPTZ NOT NULL
);
COMMENT ON TABLE base.shard IS 'One row per committed shard: how many rows it put where, and where the next one starts. Written in the transaction that writes the rows.';
INSERT INTO base.catalogue VALUES ('shard', 'run', ['run_id', 'shard'], [], false, NULL);

-- 2. What each position got ----------------------------------------------------------------------

-- Terms of the logit (embed, bias, attn, mlp, mlp_remainder; heads' toward) are whole numbers of 2^-23, float32's own step
-- at 1: a float32 logit above 1 is no finer. DuckDB packs them in 21 to 25 bits, and floats in 30. What is a whole number of
-- such steps comes back as it was.
CREATE MACRO base.units(logits) AS (logits::FLOAT * base.steps_a_logit()::FLOAT)::BIGINT;
CREATE MACRO base.logits(units) AS units::FLOAT * (1 / base.steps_a_logit())::FLOAT;

-- What rounding alone may do. A float32 rounded to decimals is off by their half step and by its own step, which
-- exceeds a thousandth from 2^13 on: base.float_error(value).
CREATE MACRO base.float_error(value) AS abs(value) * 2.384185791015625e-07; -- 2^-22
CREATE MACRO closure_bound(terms, size) AS greatest(1e-4, (terms + 128 * size) * 5.9604644775390625e-08); -- 2^-24
COMMENT ON MACRO closure_bound IS 'How far may a sum of stored terms be from its logit by rounding alone? In logits, (terms + 128 · size) · 2^-24, and 1e-4 where that is less: terms: how many are summed, each stored to half a step of 2^-23; size: sum of absolute terms over embedding, heads, neurons and biases, of which float32 arithmetic errs by a multiple of 2^-24 (38 at most in any model tried).';

CREATE TABLE base.position (
    run_id        INTEGER  NOT NULL,
    position_id   BIGINT   NOT NULL,
    document_id   BIGINT   NOT NULL,
    window_id     BIGINT   NOT NULL,
    position      INTEGER  NOT NULL,
    token_id      INTEGER  NOT NULL,
    char_start    INTEGER,
    char_end      INTEGER,
    next_token_id INTEGER,
    top_token_id  INTEGER  NOT NULL,
    next_logit    FLOAT,
    top_logit     FLOAT    NOT NULL,
    logit_offset  FLOAT    NOT NULL,
    next_logprob  FLOAT,
    top_logprob   FLOAT    NOT NULL,
    next_rank     INTEGER,
    entropy       FLOAT    NOT NULL,
    final_scale   FLOAT    NOT NULL,
    context_cut   BOOLEAN  NOT NULL,
    embed_next    BIGINT,
    embed_top     BIGINT   NOT NULL,
    pos_embed_next BIGINT,
    pos_embed_top BIGINT,
    bias_next     BIGINT,
    bias_top      BIGINT   NOT NULL,
    closure_next  FLOAT,
    closure_top   FLOAT    NOT NULL,
    source_bound  DECIMAL(9, 4) NOT NULL
);
COMMENT ON TABLE base.position IS 'One row per stored position of a run, in the order of position_id.';
INSERT INTO base.catalogue VALUES ('position', 'run', ['position_id'], [], false, NULL);
CREATE INDEX position_by_id ON base.position (position_id);

CREATE TABLE base.contribution (
    run_id            INTEGER  NOT NULL,
    position_id       BIGINT   NOT NULL,
    layer             UTINYINT NOT NULL,
    attn_next         BIGINT,
    attn_top          BIGINT   NOT NULL,
    mlp_next          BIGINT,
    mlp_top           BIGINT   NOT NULL,
    mlp_remainder_next     BIGINT,
    mlp_remainder_top      BIGINT   NOT NULL,
    mlp_remainder_abs_next DECIMAL(9, 4),
    mlp_remainder_abs_top  DECIMAL(9, 4) NOT NULL,
    activation_bound  DECIMAL(9, 3) NOT NULL,
    next_bound        DECIMAL(9, 3),
    top_bound         DECIMAL(9, 3) NOT NULL
);
COMMENT ON TABLE base.contribution IS 'One row per position and layer, in the order of position_id.';
INSERT INTO base.catalogue VALUES ('contribution', 'run', ['position_id', 'layer'], [], false, NULL);

CREATE TABLE base.head (
    run_id        INTEGER   NOT NULL,
    position_id   BIGINT    NOT NULL,
    layer         UTINYINT  NOT NULL,
    head          UTINYINT  NOT NULL,
    toward_next   BIGINT,
    toward_top    BIGINT    NOT NULL,
    source_offset USMALLINT NOT NULL,
    attention     DECIMAL(5, 4) NOT NULL,
    output_norm   DECIMAL(9, 3) NOT NULL
);
COMMENT ON TABLE base.head IS 'One row per position, layer and head; within a shard in the order of layer, head, position_id (of every second head backwards: it packs closer), so that one copy answers by head and by position. source_offset: position_id minus that of the most attended source.';
INSERT INTO base.catalogue VALUES ('head', 'run', ['position_id', 'layer', 'head'], [], false, NULL);

CREATE TABLE base.head_source (
    run_id         INTEGER   NOT NULL,
    position_id    BIGINT    NOT NULL,
    layer          UTINYINT  NOT NULL,
    head           UTINYINT  NOT NULL,
    source_offset  USMALLINT NOT NULL,
    attention      DECIMAL(5, 4) NOT NULL,
    toward_next    DECIMAL(9, 4),
    toward_top     DECIMAL(9, 4),
    unrounded_next FLOAT,
    unrounded_top  FLOAT,
    CHECK ((toward_top IS NULL) <> (unrounded_top IS NULL))
);
COMMENT ON TABLE base.head_source IS 'One row per position and kept head-and-source term, in the order of position_id. unrounded_next and unrounded_top stand in the place of the others where all sources are kept: these sum to the head.';
INSERT INTO base.catalogue VALUES ('head_source', 'run', ['position_id', 'layer', 'head', 'source_offset'], [], false, NULL);

CREATE TABLE base.neuron (
    run_id      INTEGER   NOT NULL,
    position_id BIGINT    NOT NULL,
    layer       UTINYINT  NOT NULL,
    neuron      UINTEGER  NOT NULL,
    activation  DECIMAL(9, 3) NOT NULL,
    toward_next DECIMAL(9, 3),
    toward_top  DECIMAL(9, 3) NOT NULL
);
COMMENT ON TABLE base.neuron IS 'One row per position, layer and kept neuron; within a shard in the order of layer, neuron (those with the most rows first), position_id (of every second neuron backwards), so that one copy answers by neuron and by position.';
INSERT INTO base.catalogue VALUES ('neuron', 'run', ['position_id', 'layer', 'neuron'], [], false, NULL);

CREATE TABLE base.neuron_code (
    run_id      INTEGER    NOT NULL,
    position_id BIGINT     NOT NULL,
    layer       UTINYINT   NOT NULL,
    part        USMALLINT  NOT NULL,
    low         DECIMAL(9, 3) NOT NULL,
    step        DECIMAL(9, 4) NOT NULL,
    codes       UTINYINT[] NOT NULL
);
COMMENT ON TABLE base.neuron_code IS 'One row per position, layer and 128 neurons of a run that keeps all, in the order they were read in, about that of position_id: an activation is low + step · code, within half a step. Code 31: base.neuron has that neuron.';
INSERT INTO base.catalogue VALUES ('neuron_code', 'run', ['position_id', 'layer', 'part'], [], false, NULL);

CREATE TABLE base.lens (
    run_id       INTEGER  NOT NULL,
    position_id  BIGINT   NOT NULL,
    layer        UTINYINT NOT NULL,
    top_token_id INTEGER  NOT NULL,
    top_logprob  FLOAT    NOT NULL,
    next_logprob FLOAT,
    next_rank    INTEGER
);
COMMENT ON TABLE base.lens IS 'One row per position and layer of a run with --lens.';
INSERT INTO base.catalogue VALUES ('lens', 'run', ['position_id', 'layer'], [], false, NULL);

-- 3. Exact over the whole run --------------------------------------------------------------------

CREATE TABLE base.top_candidate (
    run_id      INTEGER   NOT NULL,
    kind        unit_kind NOT NULL,
    list        unit_list NOT NULL,
    layer       UTINYINT  NOT NULL,
    unit        UINTEGER  NOT NULL,
    position_id BIGINT    NOT NULL,
    value       FLOAT     NOT NULL
);
COMMENT ON TABLE base.top_candidate IS 'One row per value that may belong to a list of a run still going on: each shard adds its own; finishing the run replaces them by base.top_entry.';
INSERT INTO base.catalogue VALUES ('top_candidate', 'run', ['run_id', 'kind', 'list', 'layer', 'unit', 'position_id'], [], false, NULL);

CREATE TABLE base.top_entry (
    run_id      INTEGER   NOT NULL,
    kind        unit_kind NOT NULL,
    list        unit_list NOT NULL,
    layer       UTINYINT  NOT NULL,
    unit        UINTEGER  NOT NULL,
    rank        USMALLINT NOT NULL,
    position_id BIGINT    NOT NULL,
    value       FLOAT     NOT NULL
);
COMMENT ON TABLE base.top_entry IS 'One row per list and rank of a finished run, in the order of the columns.';
INSERT INTO base.catalogue VALUES ('top_entry', 'run', ['run_id', 'kind', 'list', 'layer', 'unit', 'rank'], [], false, NULL);

CREATE TABLE base.top_source (
    run_id        INTEGER   NOT NULL,
    layer         UTINYINT  NOT NULL,
    head          UTINYINT  NOT NULL,
    position_id   BIGINT    NOT NULL,
    source_offset USMALLINT NOT NULL,
    attention     DECIMAL(5, 4) NOT NULL
);
COMMENT ON TABLE base.top_source IS 'One row per head of a finished run and position in its lists: a copy of what base.head says of the source, which is too large to look for so few rows in.';
INSERT INTO base.catalogue VALUES ('top_source', 'run', ['run_id', 'layer', 'head', 'position_id'], [], false, NULL);

CREATE TABLE base.head_offset (
    run_id        INTEGER   NOT NULL,
    layer         UTINYINT  NOT NULL,
    head          UTINYINT  NOT NULL,
    source_offset USMALLINT NOT NULL,
    positions     BIGINT    NOT NULL,
    attention     DECIMAL(38, 4) NOT NULL,
    effects       BIGINT    NOT NULL,
    effect        HUGEINT
);
COMMENT ON TABLE base.head_offset IS 'One row per head of a finished run and distance of its strongest source: exact sums over base.head without the positions of base.left_out (effect: steps of 2^-23), so that no question reads all of it again.';
INSERT INTO base.catalogue VALUES ('head_offset', 'run', ['run_id', 'layer', 'head', 'source_offset'], [], false, NULL);

CREATE TABLE base.unit_stat (
    run_id         INTEGER   NOT NULL,
    kind           unit_kind NOT NULL,
    layer          UTINYINT  NOT NULL,
    unit           UINTEGER  NOT NULL,
    count          BIGINT    NOT NULL,
    total          HUGEINT   NOT NULL,
    squares        HUGEINT   NOT NULL,
    minimum        FLOAT     NOT NULL,
    maximum        FLOAT     NOT NULL,
    positive       BIGINT    NOT NULL,
    histogram      BIGINT[]  NOT NULL,
    effect_count   BIGINT    NOT NULL,
    effect         HUGEINT   NOT NULL,
    effect_abs     HUGEINT   NOT NULL
);
COMMENT ON TABLE base.unit_stat IS 'One row per neuron or head of a run: sums over every position so far, rewritten by each shard. The sums are whole numbers of steps, so they are the same in any order: of values and effects 2^-26 (base.values_of), of squares 2^-20 (base.squares_of); each value is rounded to a step before it is added.';
INSERT INTO base.catalogue VALUES ('unit_stat', 'run', ['run_id', 'kind', 'layer', 'unit'], ['kind', 'layer', 'unit'], true, NULL);

CREATE TABLE base.attention_stat (
    run_id    INTEGER  NOT NULL,
    layer     UTINYINT NOT NULL,
    head      UTINYINT NOT NULL,
    behaviour attention_behaviour NOT NULL,
    total     HUGEINT  NOT NULL,
    count     BIGINT   NOT NULL
);
COMMENT ON TABLE base.attention_stat IS 'One row per head and behaviour: sum of attention, in whole steps of 2^-30 (base.attention_of), and number of positions, rewritten by each shard.';
INSERT INTO base.catalogue VALUES ('attention_stat', 'run', ['run_id', 'layer', 'head', 'behaviour'], [], true, NULL);

CREATE TABLE base.sample_position (run_id INTEGER NOT NULL, position_id BIGINT NOT NULL);
COMMENT ON TABLE base.sample_position IS 'One row per position of a run''s sample that was reached.';
INSERT INTO base.catalogue VALUES ('sample_position', 'run', ['run_id', 'position_id'], [], false, NULL);

CREATE TABLE base.sample_row (
    run_id      INTEGER  NOT NULL,
    kind        unit_kind NOT NULL,
    layer       UTINYINT NOT NULL,
    position_id BIGINT   NOT NULL,
    values      DECIMAL(9, 3)[] NOT NULL
);
COMMENT ON TABLE base.sample_row IS 'One row per sampled position and layer of a run still going on: the values of all its neurons or heads. Finishing the run turns them into base.sample_unit.';
INSERT INTO base.catalogue VALUES ('sample_row', 'run', ['run_id', 'kind', 'layer', 'position_id'], [], false, NULL);

CREATE TABLE base.sample_unit (
    run_id  INTEGER   NOT NULL,
    kind    unit_kind NOT NULL,
    layer   UTINYINT  NOT NULL,
    unit    UINTEGER  NOT NULL,
    values  DECIMAL(9, 3)[] NOT NULL
);
COMMENT ON TABLE base.sample_unit IS 'One row per neuron or head of a finished run: its activations, or direct effects on the next token, at the sampled positions in their order.';
INSERT INTO base.catalogue VALUES ('sample_unit', 'run', ['run_id', 'kind', 'layer', 'unit'], ['kind', 'layer', 'unit'], false, NULL);

-- 4. What people ask: identity and text -----------------------------------------------------------

CREATE VIEW runs AS
SELECT r.run_id, r.model_id, r.corpus_id, m.model, m.revision, m.step,
       array_to_string(c.sources, ' ') AS corpus, r.settings, r.libraries,
       m.weights_sha256, t.sha256 AS tokenizer_sha256, c.sha256 AS corpus_sha256, r.processing,
       r.started, r.finished, r.status,
       coalesce(s.tokens, 0)::BIGINT AS tokens,
       CASE WHEN (r.settings->>'special_in_lists')::BOOLEAN THEN 0 ELSE coalesce(s.special, 0) END::BIGINT AS special_excluded,
       s.worst_closure, s.worst_closure_ratio
FROM base.run r
JOIN base.model m USING (model_id)
JOIN base.tokenizer t USING (tokenizer_id)
JOIN base.corpus c USING (corpus_id)
LEFT JOIN (SELECT run_id, sum(positions) AS tokens, sum(special_positions) AS special, max(worst_closure) AS worst_closure,
                  max(worst_closure_ratio) AS worst_closure_ratio
           FROM base.shard GROUP BY run_id) s USING (run_id);
COMMENT ON VIEW runs IS 'What is in this store, and how was it made? One row per run: one model revision, one corpus, one set of settings.';
COMMENT ON COLUMN runs.settings IS 'every option that changes a stored value';
COMMENT ON COLUMN runs.processing IS 'TransformerLens''s weight processing: LayerNorm folded, writing weights and W_U centred, value biases folded';
COMMENT ON COLUMN runs.tokens IS 'positions committed so far';
COMMENT ON COLUMN runs.special_excluded IS 'positions of special tokens among them, which lists, statistics and the sample leave out; 0 with --special-in-lists';
COMMENT ON COLUMN runs.worst_closure IS 'largest |sum of a position''s terms − its logit|, in logits, over both targets';
COMMENT ON COLUMN runs.worst_closure_ratio IS 'the same error as a fraction of closure_bound, what rounding alone may do at that position: the largest; an ingest refuses more than 1';

CREATE VIEW models AS
SELECT e.model_id, e.model, e.revision, e.step, e.n_layers, e.n_heads, e.d_model, e.d_head, e.d_mlp, e.d_vocab, e.n_ctx, e.parallel_residual, e.family, e.norm, e.activation
FROM base.model e;
COMMENT ON VIEW models IS 'What shape is the model? One row per model revision.';
COMMENT ON COLUMN models.step IS 'training step of the checkpoint; NULL where unknown';
COMMENT ON COLUMN models.family IS 'model family, as config.json names it (model_type): gpt_neox';
COMMENT ON COLUMN models.norm IS 'normalisation before each block and the unembedding';
COMMENT ON COLUMN models.activation IS 'activation function of the MLP, as config.json names it, in capitals';
COMMENT ON COLUMN models.d_vocab IS 'rows of W_U, padding rows included';

CREATE VIEW vocabulary AS
SELECT m.model_id, t.token_id, t.token, t.bytes, t.is_special FROM base.token t JOIN base.model m USING (tokenizer_id);
COMMENT ON VIEW vocabulary IS 'What does a token id stand for? One row per token of a model''s vocabulary.';
COMMENT ON COLUMN vocabulary.token IS 'text for people, in the form that the tokenizer gives a text (composed, lower-cased …): bytes that are no UTF-8 of their own are written \xNN';
COMMENT ON COLUMN vocabulary.bytes IS 'the bytes the token stands for';
COMMENT ON COLUMN vocabulary.is_special IS 'a BOS, padding or the like, by the tokenizer''s own account';

CREATE VIEW documents AS
SELECT e.corpus_id, e.document_id, e.source, e.text, e.sha256, e.metadata FROM base.document e;
COMMENT ON VIEW documents IS 'Which texts were read? One row per document of a corpus.';
COMMENT ON COLUMN documents.source IS 'file and line or row the document came from';
COMMENT ON COLUMN documents.metadata IS 'the source''s other columns, as JSON';

CREATE VIEW positions AS
SELECT p.run_id, p.position_id, p.document_id, p.window_id, p.position,
       p.token_id, t.token, p.char_start, p.char_end,
       p.next_token_id, n.token AS next_token, p.top_token_id, c.token AS top_token,
       p.next_logit, p.top_logit, p.logit_offset, p.next_logprob, p.top_logprob, p.next_rank,
       p.entropy, p.final_scale, p.position = 0 AS is_first, t.is_special, p.context_cut,
       p.closure_next, p.closure_top, p.source_bound::FLOAT AS source_bound
FROM base.position p
JOIN base.run r USING (run_id)
JOIN base.model m USING (model_id)
LEFT JOIN base.token t ON t.tokenizer_id = m.tokenizer_id AND t.token_id = p.token_id
LEFT JOIN base.token n ON n.tokenizer_id = m.tokenizer_id AND n.token_id = p.next_token_id
LEFT JOIN base.token c ON c.tokenizer_id = m.tokenizer_id AND c.token_id = p.top_token_id;
COMMENT ON VIEW positions IS 'What stood here, what followed, and what did the model expect? One row per occurrence of a token.';
COMMENT ON COLUMN positions.position_id IS 'unique in the store, ascending by document, window and position';
COMMENT ON COLUMN positions.window_id IS 'number of the window the model read, counted through the corpus from 0; the same in every run that cuts the corpus alike';
COMMENT ON COLUMN positions.position IS 'place in that window, from 0; a BOS counts';
COMMENT ON COLUMN positions.token IS 'text for people, in the form that the tokenizer gives a text (composed, lower-cased …); as the text has it: characters char_start to char_end';
COMMENT ON COLUMN positions.char_start IS 'first character of the token in documents.text, from 0; NULL for a BOS that the text does not have';
COMMENT ON COLUMN positions.char_end IS 'one past its last character; pieces of one character share its span, and no character of a document is left out: one that the tokenizer drops belongs to the token before it';
COMMENT ON COLUMN positions.next_token_id IS 'the token that follows in the window; NULL at its end';
COMMENT ON COLUMN positions.top_token_id IS 'the model''s first choice among real tokens';
COMMENT ON COLUMN positions.next_logit IS 'logit of the next token minus the vocabulary''s mean';
COMMENT ON COLUMN positions.top_logit IS 'logit of the first choice minus the vocabulary''s mean';
COMMENT ON COLUMN positions.logit_offset IS 'the vocabulary''s mean: add it for Hugging Face''s logit';
COMMENT ON COLUMN positions.next_logprob IS 'log-probability, nats; its negative is the loss';
COMMENT ON COLUMN positions.top_logprob IS 'log-probability, nats';
COMMENT ON COLUMN positions.next_rank IS 'rank of the next token among real tokens, from 1';
COMMENT ON COLUMN positions.entropy IS 'of the prediction, nats';
COMMENT ON COLUMN positions.final_scale IS 'σ of the final LayerNorm, frozen in every effect';
COMMENT ON COLUMN positions.is_first IS 'position 0, an attention sink: left out of top lists';
COMMENT ON COLUMN positions.is_special IS 'the token is a BOS, padding or the like, put there by --bos or read from the text by --parse-special: left out of lists, statistics and the sample unless the run has --special-in-lists';
COMMENT ON COLUMN positions.context_cut IS 'the document began before the window';
COMMENT ON COLUMN positions.closure_next IS 'sum of the stored terms toward the next token minus its logit';
COMMENT ON COLUMN positions.closure_top IS 'the same for the first choice';
COMMENT ON COLUMN positions.source_bound IS 'no head-and-source term left out of head_sources exceeds this, in logits, on either target';

CREATE VIEW base.left_out AS
SELECT p.run_id, p.position_id
FROM base.position p
JOIN base.run r USING (run_id)
JOIN base.model m USING (model_id)
JOIN base.token t ON t.tokenizer_id = m.tokenizer_id AND t.token_id = p.token_id
WHERE t.is_special AND NOT coalesce((r.settings->>'special_in_lists')::BOOLEAN, false);
COMMENT ON VIEW base.left_out IS 'One row per position that its run''s lists, statistics and sample leave out: a special token''s, unless these were asked for.';

-- 5. What people ask: the terms of a prediction ----------------------------------------------------

CREATE VIEW contributions AS
SELECT e.run_id, e.position_id, NULL::UTINYINT AS layer, 'embed'::component AS component,
       base.logits(e.embed_next) AS toward_next, base.logits(e.embed_top) AS toward_top FROM base.position e
UNION ALL
SELECT e.run_id, e.position_id, NULL, 'pos_embed'::component, base.logits(e.pos_embed_next), base.logits(e.pos_embed_top)
FROM base.position e WHERE e.pos_embed_top IS NOT NULL
UNION ALL
SELECT e.run_id, e.position_id, e.layer, 'attn'::component, base.logits(e.attn_next), base.logits(e.attn_top) FROM base.contribution e
UNION ALL
SELECT e.run_id, e.position_id, e.layer, 'mlp'::component, base.logits(e.mlp_next), base.logits(e.mlp_top) FROM base.contribution e
UNION ALL
SELECT e.run_id, e.position_id, NULL, 'final_bias'::component, base.logits(e.bias_next), base.logits(e.bias_top) FROM base.position e;
COMMENT ON VIEW contributions IS 'What made this prediction? One row per position and component; their sum is the centred logit.';
COMMENT ON COLUMN contributions.layer IS 'NULL for embed, pos_embed and final_bias';
COMMENT ON COLUMN contributions.component IS 'embed; pos_embed: the position embedding, of models that have one; attn: a layer''s heads and attention bias; mlp: its neurons and output bias; final_bias: b_U';
COMMENT ON COLUMN contributions.toward_next IS 'direct effect on the next token, logits, to 2^-23, float32''s step at 1';
COMMENT ON COLUMN contributions.toward_top IS 'direct effect on the first choice, logits';

CREATE VIEW base.bias_effect AS
SELECT p.run_id, p.position_id, t.layer, n.attn / p.final_scale AS attn_next, t.attn / p.final_scale AS attn_top,
       n.mlp / p.final_scale AS mlp_next, t.mlp / p.final_scale AS mlp_top
FROM base.position p
JOIN base.run r USING (run_id)
JOIN base.layer_bias t ON t.model_id = r.model_id AND t.token_id = p.top_token_id
LEFT JOIN base.layer_bias n ON n.model_id = r.model_id AND n.token_id = p.next_token_id AND n.layer = t.layer;
COMMENT ON VIEW base.bias_effect IS 'Direct effects of each layer''s biases. One row per position and layer.';

CREATE VIEW contribution_details AS
SELECT e.run_id, e.position_id, e.layer, 'attn_bias'::component_detail AS component,
       e.attn_next AS toward_next, e.attn_top AS toward_top FROM base.bias_effect e
UNION ALL
SELECT e.run_id, e.position_id, e.layer, 'mlp_bias'::component_detail, e.mlp_next, e.mlp_top FROM base.bias_effect e
UNION ALL
SELECT e.run_id, e.position_id, e.layer, 'mlp_remainder'::component_detail, base.logits(e.mlp_remainder_next), base.logits(e.mlp_remainder_top) FROM base.contribution e
UNION ALL
SELECT e.run_id, e.position_id, e.layer, 'mlp_remainder_abs'::component_detail, e.mlp_remainder_abs_next::FLOAT, e.mlp_remainder_abs_top::FLOAT FROM base.contribution e;
COMMENT ON VIEW contribution_details IS 'What is in a layer besides heads and kept neurons? One row per position, layer and remainder: attn = Σ heads + attn_bias; mlp = Σ neurons + mlp_remainder + mlp_bias.';
COMMENT ON COLUMN contribution_details.component IS 'attn_bias: b_O with the folded value biases; mlp_bias: b_out; mlp_remainder: sum of the neurons not kept (and of what rounding took from the kept); mlp_remainder_abs: sum of their absolute values, rounded to 0.0001';
COMMENT ON COLUMN contribution_details.toward_next IS 'direct effect on the next token, logits';
COMMENT ON COLUMN contribution_details.toward_top IS 'direct effect on the first choice, logits';

CREATE VIEW heads AS
SELECT e.run_id, e.position_id, e.layer, e.head, base.logits(e.toward_next) AS toward_next, base.logits(e.toward_top) AS toward_top,
       e.position_id - e.source_offset AS top_source_position_id, e.attention::FLOAT AS top_source_attention,
       e.output_norm::FLOAT AS output_norm
FROM base.head e;
COMMENT ON VIEW heads IS 'What did each head do here? One row per position, layer and head: all heads are kept.';
COMMENT ON COLUMN heads.toward_next IS 'direct effect on the next token, logits, to 2^-23, float32''s step at 1';
COMMENT ON COLUMN heads.toward_top IS 'direct effect on the first choice, logits';
COMMENT ON COLUMN heads.top_source_position_id IS 'the position it attends to most';
COMMENT ON COLUMN heads.top_source_attention IS 'attention probability there, rounded to 0.0001';
COMMENT ON COLUMN heads.output_norm IS '|z W_O|, rounded to 0.001';

CREATE VIEW head_sources AS
SELECT e.run_id, e.position_id, e.layer, e.head, e.position_id - e.source_offset AS source_position_id,
       e.attention::FLOAT AS attention, coalesce(e.toward_next::FLOAT, e.unrounded_next) AS toward_next,
       coalesce(e.toward_top::FLOAT, e.unrounded_top) AS toward_top
FROM base.head_source e;
COMMENT ON VIEW head_sources IS 'From where did the heads take it? One row per position and kept head-and-source term: the strongest over all heads. What is left out is at most positions.source_bound.';
COMMENT ON COLUMN head_sources.attention IS 'attention probability, rounded to 0.0001';
COMMENT ON COLUMN head_sources.toward_next IS 'direct effect on the next token through this source, logits, rounded to 0.0001 unless all are kept';
COMMENT ON COLUMN head_sources.toward_top IS 'the same on the first choice';

CREATE VIEW base.coded_neuron AS
SELECT c.run_id, c.position_id, c.layer, d.neuron,
       c.low::FLOAT + c.step::FLOAT * c.codes[d.neuron % base.neurons_a_part() + 1] AS activation,
       (activation * list_inner_product(d.W_out, n.u) / p.final_scale)::FLOAT AS toward_next,
       (activation * list_inner_product(d.W_out, t.u) / p.final_scale)::FLOAT AS toward_top, c.step::FLOAT / 2 AS activation_error
FROM base.neuron_code c
JOIN base.position p USING (run_id, position_id)
JOIN base.run r USING (run_id)
JOIN base.neuron_direction d ON d.model_id = r.model_id AND d.layer = c.layer AND d.neuron // base.neurons_a_part() = c.part
JOIN base.token_direction t ON t.model_id = r.model_id AND t.token_id = p.top_token_id
LEFT JOIN base.token_direction n ON n.model_id = r.model_id AND n.token_id = p.next_token_id
WHERE c.codes[d.neuron % base.neurons_a_part() + 1] < base.code_of_kept();
COMMENT ON VIEW base.coded_neuron IS 'One row per position, layer and neuron of a run that keeps all, but those that base.neuron has.';

CREATE VIEW base.kept_neuron AS
SELECT e.run_id, e.position_id, e.layer, e.neuron, e.activation::FLOAT AS activation, e.toward_next::FLOAT AS toward_next,
       e.toward_top::FLOAT AS toward_top, 0.0005::FLOAT AS activation_error
FROM base.neuron e;
COMMENT ON VIEW base.kept_neuron IS 'One row per position, layer and neuron that base.neuron has: all there are, but of runs that keep all.';

CREATE VIEW neurons AS
FROM base.kept_neuron
UNION ALL
FROM base.coded_neuron;
COMMENT ON VIEW neurons IS 'Which neurons fired or mattered here? One row per position, layer and kept neuron; what is left out is bounded by neuron_bounds.';
COMMENT ON COLUMN neurons.activation IS 'after GELU (hook_post), rounded to 0.001; with --keep-neurons all, of those below the 8 strongest, to one of 31 steps between the minimum and the maximum of 128 neurons';
COMMENT ON COLUMN neurons.activation_error IS 'the activation itself is no farther away; beyond the 8 strongest an effect is wrong by the same share as its activation';
COMMENT ON COLUMN neurons.toward_next IS 'direct effect on the next token, logits, rounded to 0.001';
COMMENT ON COLUMN neurons.toward_top IS 'direct effect on the first choice, logits, rounded to 0.001';

CREATE VIEW neuron_bounds AS
SELECT e.run_id, e.position_id, e.layer, e.activation_bound::FLOAT AS activation_bound, e.next_bound::FLOAT AS next_bound,
       e.top_bound::FLOAT AS top_bound
FROM base.contribution e;
COMMENT ON VIEW neuron_bounds IS 'Is an answer from neurons exact? One row per position and layer: no neuron left out there exceeds these, in absolute value.';
COMMENT ON COLUMN neuron_bounds.activation_bound IS 'largest |activation| among the neurons not in the top k by it';
COMMENT ON COLUMN neuron_bounds.next_bound IS 'largest |toward_next| among those not in the top k by it, logits';
COMMENT ON COLUMN neuron_bounds.top_bound IS 'largest |toward_top| among those not in the top k by it, logits';

CREATE VIEW lens AS
SELECT l.run_id, l.position_id, l.layer, l.top_token_id, t.token AS top_token, l.top_logprob, l.next_logprob, l.next_rank
FROM base.lens l
JOIN base.run r USING (run_id)
JOIN base.model m USING (model_id)
LEFT JOIN base.token t ON t.tokenizer_id = m.tokenizer_id AND t.token_id = l.top_token_id;
COMMENT ON VIEW lens IS 'When did the model know? One row per position and layer of a run with --lens: the residual stream after block `layer`, read out with its own σ (logit lens).';
COMMENT ON COLUMN lens.layer IS 'the block after which the stream is read';
COMMENT ON COLUMN lens.top_logprob IS 'log-probability of the lens''s first choice, nats';
COMMENT ON COLUMN lens.next_logprob IS 'log-probability of the next token, nats';
COMMENT ON COLUMN lens.next_rank IS 'rank of the next token among real tokens, from 1';

-- 6. What people ask: neurons and heads over the whole run -------------------------------------------

CREATE VIEW base.ranked AS
SELECT e.run_id, e.kind, e.list, e.layer, e.unit, e.rank, e.position_id, e.value FROM base.top_entry e
UNION ALL
SELECT c.run_id, c.kind, c.list, c.layer, c.unit,
       row_number() OVER (PARTITION BY c.run_id, c.kind, c.list, c.layer, c.unit
                          ORDER BY CASE WHEN c.list = 'low' THEN c.value ELSE -c.value END,
                                   c.position_id)::USMALLINT AS rank,
       c.position_id, c.value
FROM base.top_candidate c
JOIN base.run r USING (run_id)
QUALIFY rank <= r.list_size;
COMMENT ON VIEW base.ranked IS 'Every list of every run, whether it is finished or still going on.';

CREATE VIEW neuron_top AS
SELECT e.run_id, e.layer, e.unit AS neuron,
       e.list::VARCHAR::side AS side, e.rank, e.position_id, e.value AS activation
FROM base.ranked e WHERE e.kind = 'neuron' AND e.list IN ('high', 'low');
COMMENT ON VIEW neuron_top IS 'Where is this neuron at its most extreme? One row per neuron, side and rank: exact over the whole run, windows'' first positions and special tokens left out unless asked for. Ties go to the earlier position.';
COMMENT ON COLUMN neuron_top.side IS 'high: largest activations first; low: smallest first';
COMMENT ON COLUMN neuron_top.rank IS 'from 1';
COMMENT ON COLUMN neuron_top.activation IS 'after GELU (hook_post), not rounded';

CREATE VIEW neuron_windows AS
SELECT w.run_id, w.layer, w.unit AS neuron, w.rank, p.window_id, w.position_id, w.value AS activation
FROM base.ranked w JOIN base.position p USING (run_id, position_id)
WHERE w.kind = 'neuron' AND w.list = 'window';
COMMENT ON VIEW neuron_windows IS 'In which texts is this neuron strongest? One row per neuron and rank, each window once with its highest activation (φ of Neo, Cohen and Barez 2024): exact over the whole run.';
COMMENT ON COLUMN neuron_windows.position_id IS 'where in the window the activation is highest, the first such position';
COMMENT ON COLUMN neuron_windows.activation IS 'after GELU (hook_post), not rounded';

CREATE VIEW head_top AS
SELECT e.run_id, e.layer, e.unit AS head,
       e.list::VARCHAR::side AS side, e.rank, e.position_id, e.value AS toward_next
FROM base.ranked e WHERE e.kind = 'head';
COMMENT ON VIEW head_top IS 'Where does this head push hardest for or against the next token? One row per head, side and rank: exact over the whole run.';
COMMENT ON COLUMN head_top.side IS 'high: largest effects first; low: smallest (most negative) first';
COMMENT ON COLUMN head_top.toward_next IS 'direct effect on the next token, logits, not rounded';

CREATE VIEW base.finished_sample AS
SELECT u.run_id, u.kind, u.layer, u.unit, unnest(s.position_ids) AS position_id, unnest(u.values)::FLOAT AS value
FROM base.sample_unit u
JOIN (SELECT run_id, list(position_id ORDER BY position_id) AS position_ids
      FROM base.sample_position GROUP BY run_id) s USING (run_id);
COMMENT ON VIEW base.finished_sample IS 'Every value at the sampled positions of finished runs; of others a part at most.';

CREATE VIEW base.sample AS
FROM base.finished_sample
UNION ALL
SELECT r.run_id, r.kind, r.layer, (generate_subscripts(r.values, 1) - 1)::UINTEGER, r.position_id, unnest(r.values)::FLOAT
FROM base.sample_row r;
COMMENT ON VIEW base.sample IS 'Every value at the sampled positions of every run, whether it is finished or still going on.';

CREATE VIEW neuron_samples AS
SELECT e.run_id, e.layer, e.unit AS neuron, e.position_id, e.value FROM base.sample e WHERE e.kind = 'neuron';
COMMENT ON VIEW neuron_samples IS 'What does this neuron do when nobody chose the example? One row per sampled position and neuron, all neurons: a uniform sample of the run''s positions, special tokens left out unless asked for.';
COMMENT ON COLUMN neuron_samples.value IS 'activation after GELU, rounded to 0.001';

CREATE VIEW head_samples AS
SELECT e.run_id, e.layer, e.unit AS head, e.position_id, e.value FROM base.sample e WHERE e.kind = 'head';
COMMENT ON VIEW head_samples IS 'What does this head do when nobody chose the example? One row per sampled position and head.';
COMMENT ON COLUMN head_samples.value IS 'direct effect on the next token, logits, rounded to 0.001; NULL where nothing follows';

CREATE VIEW histogram_bins AS
WITH edge AS (
    SELECT row_number() OVER (ORDER BY value)::INTEGER AS place, value
    FROM (SELECT 0.0::DOUBLE AS value
          UNION ALL
          SELECT sign * step * pow(2, exponent)
          FROM (VALUES (-1), (1)) a(sign), (VALUES (1.0), (1.5)) b(step), range(-5, 6) c(exponent))
)
SELECT bin::INTEGER AS bin, below.value AS low, above.value AS high
FROM range(1, 47) t(bin)
LEFT JOIN edge below ON below.place = bin - 1
LEFT JOIN edge above ON above.place = bin;
COMMENT ON VIEW histogram_bins IS 'Which values does a histogram''s n-th count stand for? One row per bin. A value on an edge is in the bin farther from zero.';
COMMENT ON COLUMN histogram_bins.bin IS 'place in the histogram''s list, from 1';
COMMENT ON COLUMN histogram_bins.low IS 'lower edge; NULL: open';
COMMENT ON COLUMN histogram_bins.high IS 'upper edge; NULL: open';

CREATE MACRO base.values_of(steps) AS steps::DOUBLE / base.steps_a_value();
CREATE MACRO base.squares_of(steps) AS steps::DOUBLE / base.steps_a_square();
CREATE MACRO base.attention_of(steps) AS steps::DOUBLE / base.steps_of_attention();

CREATE VIEW base.unit_summary AS
SELECT run_id, kind, layer, unit, count, base.values_of(total) / nullif(count, 0) AS mean,
       CASE WHEN count > 0 THEN sqrt(greatest(0, base.squares_of(squares) / count - (base.values_of(total) / count) ** 2)) END AS std,
       CASE WHEN count > 0 THEN minimum END AS min, CASE WHEN count > 0 THEN maximum END AS max, positive / nullif(count, 0) AS fraction_positive, histogram,
       base.values_of(effect) / nullif(effect_count, 0) AS mean_effect, base.values_of(effect_abs) / nullif(effect_count, 0) AS mean_abs_effect
FROM base.unit_stat;
COMMENT ON VIEW base.unit_summary IS 'One row per neuron or head of a run: means and the like, from the sums of base.unit_stat.';

CREATE VIEW neuron_stats AS
SELECT run_id, layer, unit AS neuron, count, mean, std, min, max, fraction_positive, histogram, mean_effect, mean_abs_effect
FROM base.unit_summary WHERE kind = 'neuron';
COMMENT ON VIEW neuron_stats IS 'How does this neuron behave on the whole? One row per neuron: exact over every stored position of the run, first positions included, special tokens left out unless asked for.';
COMMENT ON COLUMN neuron_stats.count IS 'positions; runs.special_excluded is how many more there are';
COMMENT ON COLUMN neuron_stats.mean IS 'of the activation after GELU';
COMMENT ON COLUMN neuron_stats.std IS 'of the activation, over the population';
COMMENT ON COLUMN neuron_stats.min IS 'smallest activation';
COMMENT ON COLUMN neuron_stats.max IS 'largest activation';
COMMENT ON COLUMN neuron_stats.fraction_positive IS 'share of positions with activation > 0';
COMMENT ON COLUMN neuron_stats.histogram IS 'positions per bin of histogram_bins';
COMMENT ON COLUMN neuron_stats.mean_effect IS 'mean direct effect on the next token, logits';
COMMENT ON COLUMN neuron_stats.mean_abs_effect IS 'mean |direct effect| on the next token, logits';

CREATE VIEW head_stats AS
WITH attention AS (
    PIVOT (SELECT run_id, layer, head, behaviour::VARCHAR AS behaviour, total, count FROM base.attention_stat)
    ON behaviour IN ('self', 'previous', 'first', 'entropy', 'duplicate', 'induction')
    USING any_value(base.attention_of(total) / nullif(count, 0)) AS mean, any_value(count) AS count
    GROUP BY run_id, layer, head
)
SELECT s.run_id, s.layer, s.unit AS head, s.count, s.mean, s.std, s.min, s.max, s.fraction_positive, s.histogram,
       s.mean_effect, s.mean_abs_effect,
       a.self_mean AS attention_self, a.previous_mean AS attention_previous, a.first_mean AS attention_first,
       a.duplicate_mean AS attention_duplicate, a.induction_mean AS attention_induction,
       a.entropy_mean AS entropy, a.self_count AS attention_count,
       a.duplicate_count AS attention_duplicate_count, a.induction_count AS attention_induction_count
FROM base.unit_summary s
JOIN attention a ON a.run_id = s.run_id AND a.layer = s.layer AND a.head = s.unit
WHERE s.kind = 'head';
COMMENT ON VIEW head_stats IS 'What kind of head is this? One row per head: exact over every stored position of the run, special tokens left out unless asked for (what heads attend to may be one).';
COMMENT ON COLUMN head_stats.count IS 'positions that have a next token';
COMMENT ON COLUMN head_stats.mean IS 'of the direct effect on the next token, logits; the histogram is of it too';
COMMENT ON COLUMN head_stats.std IS 'of that effect, over the population, logits';
COMMENT ON COLUMN head_stats.min IS 'smallest effect, logits';
COMMENT ON COLUMN head_stats.max IS 'largest effect, logits';
COMMENT ON COLUMN head_stats.mean_effect IS 'the same as mean, as in neuron_stats';
COMMENT ON COLUMN head_stats.mean_abs_effect IS 'mean |direct effect| on the next token, logits';
COMMENT ON COLUMN head_stats.fraction_positive IS 'share of positions where the effect is > 0';
COMMENT ON COLUMN head_stats.attention_self IS 'mean attention to the position itself, over attention_count positions: all but windows'' first';
COMMENT ON COLUMN head_stats.attention_previous IS 'mean attention to the position before, over the same';
COMMENT ON COLUMN head_stats.attention_first IS 'mean attention to the window''s first position, over the same';
COMMENT ON COLUMN head_stats.attention_duplicate IS 'attention to earlier occurrences of the same token, summed, mean over the positions that have one';
COMMENT ON COLUMN head_stats.attention_induction IS 'attention to tokens that follow an earlier occurrence, summed, mean over the positions that have one (Olsson et al. 2022)';
COMMENT ON COLUMN head_stats.entropy IS 'mean entropy of the attention, nats, over attention_count positions';

CREATE VIEW closure AS
SELECT p.run_id, m.n_layers, count(*) AS positions, max(error) AS worst,
       quantile_cont(error, 0.5) AS median, quantile_cont(error, 0.99) AS p99
FROM (SELECT run_id, greatest(abs(closure_top), coalesce(abs(closure_next), 0)) AS error FROM base.position) p
JOIN base.run r USING (run_id)
JOIN base.model m USING (model_id)
GROUP BY p.run_id, m.n_layers;
COMMENT ON VIEW closure IS 'Do the terms sum to the logit? One row per run and its number of layers: |Σ terms − logit| over its positions, the worse of both targets.';
COMMENT ON COLUMN closure.worst IS 'largest error, logits';
COMMENT ON COLUMN closure.median IS 'median error, logits';
COMMENT ON COLUMN closure.p99 IS '99th percentile of the error, logits';

-- 7. Questions with parameters: each takes run := NULL, the latest finished run ----------------------

CREATE MACRO base.chosen_run(run) AS
    coalesce(run, (SELECT arg_max(run_id, finished) FROM base.run WHERE status = 'finished'));

-- An alias ends in _ where an argument, which may be a column of another table, stands beside it: FROM positions p,
-- decomposition(p.position_id).
CREATE MACRO context(position_id, before, after) AS TABLE
SELECT f_.position_id, f_.run_id, substring(line_, 1, char_start - low_) AS before,
       substring(line_, char_start - low_ + 1, char_end - char_start) AS token, substring(line_, char_end - low_ + 1) AS after
FROM (SELECT *, base.span(document_id, low_, high_) AS line_ FROM (
    SELECT p_.position_id, p_.run_id, p_.document_id, p_.char_start, p_.char_end,
           min(q_.char_start) AS low_, max(q_.char_end) AS high_
    FROM (SELECT position_id AS at_, unnest(generate_series(position_id - least(before, 100_000), position_id + least(after, 100_000))) AS place_) i_
    JOIN base.position p_ ON p_.position_id = i_.at_
    JOIN base.position q_ ON q_.position_id = i_.place_ AND q_.run_id = p_.run_id AND q_.document_id = p_.document_id
    GROUP BY ALL
)) f_;
COMMENT ON MACRO TABLE context IS 'What stands around a position? One row: the text of so many tokens before (100,000 at most), the token as it stands in the text, the tokens after.';

CREATE MACRO base.terms(position_id) AS TABLE
WITH asked_ AS MATERIALIZED (FROM base.position p_ WHERE p_.position_id = position_id LIMIT 1), -- so it is found by its index, once
bias_ AS MATERIALIZED (FROM base.bias_effect b_ WHERE b_.position_id = position_id)
SELECT 'embed' AS component, NULL::UTINYINT AS layer, NULL::UTINYINT AS head, NULL::UINTEGER AS neuron,
       base.logits(embed_next) AS toward_next, base.logits(embed_top) AS toward_top FROM asked_
UNION ALL
SELECT 'pos_embed', NULL, NULL, NULL, base.logits(pos_embed_next), base.logits(pos_embed_top) FROM asked_ WHERE pos_embed_top IS NOT NULL
UNION ALL
SELECT 'final_bias', NULL, NULL, NULL, base.logits(bias_next), base.logits(bias_top) FROM asked_
UNION ALL
SELECT 'head', h_.layer, h_.head, NULL, base.logits(h_.toward_next), base.logits(h_.toward_top) FROM base.head h_ WHERE h_.position_id = position_id
UNION ALL
SELECT 'attn_bias', layer, NULL, NULL, attn_next, attn_top FROM bias_
UNION ALL
SELECT 'mlp_bias', layer, NULL, NULL, mlp_next, mlp_top FROM bias_
UNION ALL
SELECT 'mlp_remainder', e_.layer, NULL, NULL, base.logits(e_.mlp_remainder_next), base.logits(e_.mlp_remainder_top)
FROM base.contribution e_ WHERE e_.position_id = position_id;
COMMENT ON MACRO TABLE base.terms IS 'What adds up to a prediction, but the neurons.';

CREATE MACRO decomposition(position_id) AS TABLE
SELECT 'neuron' AS component, n_.layer, NULL::UTINYINT AS head, n_.neuron, n_.toward_next, n_.toward_top
FROM neurons n_ WHERE n_.position_id = position_id
UNION ALL
FROM base.terms(position_id);
COMMENT ON MACRO TABLE decomposition IS 'Everything stored that adds up to this prediction: embedding, heads, kept neurons, remainders and biases. The sum of toward_next is the next token''s centred logit.';

-- One join a step: so the rows of base.position are found by their index.
CREATE MACRO neuron_contexts(layer, neuron, run := NULL) AS TABLE
WITH tops AS MATERIALIZED (
    FROM neuron_top t_ WHERE t_.run_id = base.chosen_run(run) AND t_.layer = layer AND t_.neuron = neuron
), placed AS MATERIALIZED (
    SELECT t.*, p.token_id, p.next_token_id, p.next_logprob, p.document_id, p.char_start, p.char_end
    FROM base.position p JOIN tops t USING (position_id)
)
SELECT t.run_id, t.side, t.rank, t.activation, t.position_id, k.token, n.token AS next_token, t.next_logprob, t.document_id,
       t.char_start, t.char_end
FROM placed t JOIN base.run USING (run_id) JOIN base.model m USING (model_id)
LEFT JOIN base.token k ON k.tokenizer_id = m.tokenizer_id AND k.token_id = t.token_id
LEFT JOIN base.token n ON n.tokenizer_id = m.tokenizer_id AND n.token_id = t.next_token_id
ORDER BY t.side, t.rank;
COMMENT ON MACRO TABLE neuron_contexts IS 'Where is this neuron at its most extreme, and what stands there? Exact over the whole run.';

CREATE MACRO head_contexts(layer, head, run := NULL) AS TABLE
WITH tops AS MATERIALIZED (
    FROM head_top t_ WHERE t_.run_id = base.chosen_run(run) AND t_.layer = layer AND t_.head = head
), noted AS MATERIALIZED (
    FROM base.top_source s_ WHERE s_.run_id = base.chosen_run(run) AND s_.layer = layer AND s_.head = head
), going_on AS MATERIALIZED (
    SELECT DISTINCT run_id, position_id FROM tops WHERE position_id NOT IN (SELECT position_id FROM noted)
), source AS MATERIALIZED (
    SELECT position_id, source_offset, attention FROM noted
    UNION ALL
    SELECT h_.position_id, h_.source_offset, h_.attention
    FROM base.head h_ JOIN going_on USING (run_id, position_id) WHERE h_.layer = layer AND h_.head = head
), placed AS MATERIALIZED (
    SELECT t.*, p.token_id, p.next_token_id, p.next_logprob, p.document_id, p.char_start, p.char_end
    FROM base.position p JOIN tops t USING (position_id)
)
SELECT t.run_id, t.side, t.rank, t.toward_next, t.position_id, k.token, n.token AS next_token, t.next_logprob,
       t.position_id - s.source_offset AS top_source_position_id, s.attention::FLOAT AS top_source_attention,
       t.document_id, t.char_start, t.char_end
FROM placed t JOIN source s USING (position_id) JOIN base.run USING (run_id) JOIN base.model m USING (model_id)
LEFT JOIN base.token k ON k.tokenizer_id = m.tokenizer_id AND k.token_id = t.token_id
LEFT JOIN base.token n ON n.tokenizer_id = m.tokenizer_id AND n.token_id = t.next_token_id
ORDER BY t.side, t.rank;
COMMENT ON MACRO TABLE head_contexts IS 'Where does this head push hardest for or against the next token, and where does it look there? Exact over the whole run.';

CREATE MACRO token_occurrences(token, run := NULL) AS TABLE
SELECT p_.* FROM positions p_
WHERE p_.run_id = base.chosen_run(run) AND p_.token = token
ORDER BY p_.position_id;
COMMENT ON MACRO TABLE token_occurrences IS 'Where does this token stand? The token exactly, its leading space included.';

-- Where a text stands in the documents of a run, as it is written or composed otherwise: é is one character or two
-- (canonical equivalence). Composed texts are searched, and their places told by clusters, a character and the marks
-- that may compose with it. Only places are passed on: texts may be long.
CREATE MACRO base.found(text, run) AS TABLE
WITH written_ AS (
    SELECT d_.document_id, list_transform(string_split(d_.text, text), lambda part: length(part) + length(text)) AS steps
    FROM base.document d_
    WHERE d_.corpus_id = (SELECT r_.corpus_id FROM base.run r_ WHERE r_.run_id = run) AND contains(d_.text, text) AND text <> ''
), otherwise_ AS MATERIALIZED (
    SELECT d_.document_id,
           list_transform(string_split(nfc_normalize(d_.text), nfc_normalize(text)), lambda part: length(part) + length(nfc_normalize(text))) AS steps,
           list_transform(list_append(regexp_extract_all(d_.text, '(?s).[\p{M}\x{1160}-\x{11FF}]*'), ''),
                          lambda c: {'characters': length(c), 'composed': length(nfc_normalize(c))}) AS clusters
    FROM base.document d_
    WHERE d_.corpus_id = (SELECT r_.corpus_id FROM base.run r_ WHERE r_.run_id = run)
      AND strlen(text) > length(text) -- it is not all ASCII, which is composed in one way
      AND contains(nfc_normalize(d_.text), nfc_normalize(text)) AND (nfc_normalize(d_.text) <> d_.text OR nfc_normalize(text) <> text)
), step_ AS (
    SELECT document_id, 'written' AS kind, unnest(steps) AS step, generate_subscripts(steps, 1) AS n, len(steps) AS last, length(text) AS size FROM written_
    UNION ALL
    SELECT document_id, 'otherwise', unnest(steps), generate_subscripts(steps, 1), len(steps), length(nfc_normalize(text)) FROM otherwise_
), place_ AS (
    SELECT document_id, kind, n, last, size, (sum(step) OVER (PARTITION BY document_id, kind ORDER BY n) - size)::INTEGER AS low FROM step_
), cluster_ AS (
    SELECT document_id, (sum(c.characters) OVER earlier - c.characters)::INTEGER AS low, (sum(c.composed) OVER earlier - c.composed)::INTEGER AS composed
    FROM (SELECT document_id, unnest(clusters) AS c, generate_subscripts(clusters, 1) AS n FROM otherwise_)
    WINDOW earlier AS (PARTITION BY document_id ORDER BY n)
)
SELECT document_id, low, low + size AS high FROM place_ WHERE n < last AND kind = 'written'
UNION
SELECT f_.document_id, a_.low, b_.low AS high
FROM place_ f_
JOIN cluster_ a_ ON a_.document_id = f_.document_id AND a_.composed = f_.low
JOIN cluster_ b_ ON b_.document_id = f_.document_id AND b_.composed = f_.low + f_.size
WHERE f_.n < f_.last AND f_.kind = 'otherwise';

CREATE MACRO phrase(text, run := NULL) AS TABLE
SELECT base.chosen_run(run) AS run_id, h_.document_id, min(p_.position_id) AS first_position_id, max(p_.position_id) AS last_position_id,
       h_.low AS char_start, h_.high AS char_end, min(p_.char_start) = h_.low AND max(p_.char_end) = h_.high AS whole_tokens
FROM (SELECT *, unnest(generate_series(greatest(base.passage_of(low) - 1, 0), base.passage_of(high))) AS passage
      FROM base.found(text, base.chosen_run(run))) h_ -- where its tokens begin: so a long document is not compared whole with each place
JOIN base.position p_ ON p_.document_id = h_.document_id AND base.passage_of(p_.char_start) = h_.passage
WHERE p_.run_id = base.chosen_run(run) AND p_.char_start < h_.high AND p_.char_end > h_.low
GROUP BY h_.document_id, h_.low, h_.high
HAVING min(p_.char_start) <= h_.low AND max(p_.char_end) >= h_.high
ORDER BY first_position_id, char_start;
COMMENT ON MACRO TABLE phrase IS 'Where does this text occur, across the borders of tokens? However its characters are composed; whole_tokens: it begins and ends where tokens do. Occurrences that overlap count once. `annotate phrase` gives the same rows with their context.';

-- 8. What the weights say: keyed by model, made from the processed weights alone ----------------------

CREATE TYPE direction AS ENUM ('promotes', 'suppresses');

CREATE TABLE base.weights (
    model_id   INTEGER NOT NULL,
    top        INTEGER NOT NULL,
    distance   INTEGER NOT NULL,
    dimensions INTEGER NOT NULL,
    rotations  INTEGER NOT NULL,
    directions INTEGER NOT NULL,
    congruence_mean FLOAT,
    congruence_std  FLOAT,
    libraries  JSON    NOT NULL,
    seconds    DOUBLE  NOT NULL,
    made       TIMESTAMPTZ NOT NULL
);
COMMENT ON TABLE base.weights IS 'One row per model whose weights were read: how long its lists are, how far apart its QK circuits'' tokens, what its scores are held against, made with what. Written in the transaction that writes the rows.';
INSERT INTO base.catalogue VALUES ('weights', 'model', ['model_id'], [], true, NULL);
COMMENT ON COLUMN base.weights.dimensions IS 'in which weights write and read, and random rotations turn them: d_model − 1, because centring and LayerNorm leave out the direction of ones';
COMMENT ON COLUMN base.weights.rotations IS 'n: seeded random rotations behind each head''s copying_z and matching_z';
COMMENT ON COLUMN base.weights.directions IS 'n: seeded random directions behind congruence_mean and congruence_std';
COMMENT ON COLUMN base.weights.congruence_mean IS 'mean over random directions of length 1 of the largest ⟨direction, W_U⟩ over all real tokens, centred logits at σ = 1; NULL where version 8 of this schema drew none';
COMMENT ON COLUMN base.weights.congruence_std IS 'std of the same';

CREATE TABLE base.neuron_vocabulary (
    model_id   INTEGER   NOT NULL,
    layer      UTINYINT  NOT NULL,
    neuron     UINTEGER  NOT NULL,
    direction  direction NOT NULL,
    rank       USMALLINT NOT NULL,
    token_id   INTEGER   NOT NULL,
    congruence FLOAT     NOT NULL
);
COMMENT ON TABLE base.neuron_vocabulary IS 'One row per neuron, direction and rank, in the order of the columns.';
INSERT INTO base.catalogue VALUES ('neuron_vocabulary', 'model', ['model_id', 'layer', 'neuron', 'direction', 'rank'], ['layer', 'neuron', 'direction', 'rank'], true, NULL);

CREATE TABLE base.neuron_weight (
    model_id INTEGER   NOT NULL,
    layer    UTINYINT  NOT NULL,
    neuron   UINTEGER  NOT NULL,
    in_norm  FLOAT     NOT NULL,
    out_norm FLOAT     NOT NULL,
    cosine   FLOAT     NOT NULL,
    bias     FLOAT     NOT NULL
);
COMMENT ON TABLE base.neuron_weight IS 'One row per neuron of a model, in the order of the columns.';
INSERT INTO base.catalogue VALUES ('neuron_weight', 'model', ['model_id', 'layer', 'neuron'], ['layer', 'neuron'], true, NULL);

CREATE TABLE base.neuron_read (
    model_id      INTEGER   NOT NULL,
    layer         UTINYINT  NOT NULL,
    neuron        UINTEGER  NOT NULL,
    rank          USMALLINT NOT NULL,
    source_layer  UTINYINT  NOT NULL,
    source_head   UTINYINT,
    source_neuron UINTEGER ,
    weight        FLOAT     NOT NULL,
    z             FLOAT
);
COMMENT ON TABLE base.neuron_read IS 'One row per neuron, kind of source (a head or a neuron) and rank, in the order of layer, neuron.';
INSERT INTO base.catalogue VALUES ('neuron_read', 'model', ['model_id', 'layer', 'neuron', 'source_layer', 'source_head', 'source_neuron'], ['layer', 'neuron', 'source_head IS NULL', 'rank'], true, NULL);

CREATE TABLE base.direct_path (
    model_id      INTEGER   NOT NULL,
    token_id      INTEGER   NOT NULL,
    rank          USMALLINT NOT NULL,
    next_token_id INTEGER   NOT NULL,
    logprob       FLOAT     NOT NULL
);
COMMENT ON TABLE base.direct_path IS 'One row per token and rank among what the direct path puts after it, in the order of the columns.';
INSERT INTO base.catalogue VALUES ('direct_path', 'model', ['model_id', 'token_id', 'rank'], ['token_id', 'rank'], true, NULL);

CREATE TABLE base.bigram_agreement (
    run_id                    INTEGER NOT NULL,
    token_id                  INTEGER NOT NULL,
    count                     BIGINT  NOT NULL,
    next_tokens               INTEGER NOT NULL,
    rank_correlation          FLOAT   NOT NULL,
    divergence                FLOAT   NOT NULL,
    overlap                   FLOAT   NOT NULL,
    shuffled_rank_correlation FLOAT   NOT NULL,
    shuffled_divergence       FLOAT   NOT NULL,
    shuffled_overlap          FLOAT   NOT NULL
);
COMMENT ON TABLE base.bigram_agreement IS 'One row per token of a finished run that something follows, in the order of the columns.';
INSERT INTO base.catalogue VALUES ('bigram_agreement', 'run', ['run_id', 'token_id'], ['token_id'], true, NULL);

CREATE TABLE base.bigram_distance (
    run_id        INTEGER NOT NULL,
    min_count   BIGINT  NOT NULL,
    max_count    BIGINT  NOT NULL,
    bigrams       BIGINT  NOT NULL,
    inner_product DOUBLE  NOT NULL,
    cosine        DOUBLE  NOT NULL,
    cosine_std    DOUBLE  NOT NULL
);
COMMENT ON TABLE base.bigram_distance IS 'One row per finished run and range of counts, in the order of the columns.';
INSERT INTO base.catalogue VALUES ('bigram_distance', 'run', ['run_id', 'min_count'], ['min_count'], true, NULL);

-- LEFT, though every token is there: DuckDB would join two vocabularies of a model with each other first.
CREATE VIEW neuron_vocabulary AS
SELECT n.model_id, n.layer, n.neuron, n.direction, n.rank, n.token_id, t.token, n.congruence
FROM base.neuron_vocabulary n
LEFT JOIN vocabulary t ON t.model_id = n.model_id AND t.token_id = n.token_id;
COMMENT ON VIEW neuron_vocabulary IS 'Which tokens does this neuron write towards, and which against? One row per neuron, direction and rank. The first it promotes is its next-token (Neo, Cohen and Barez 2024).';
COMMENT ON COLUMN neuron_vocabulary.direction IS 'promotes: highest congruence first; suppresses: lowest first';
COMMENT ON COLUMN neuron_vocabulary.rank IS 'from 1, among real tokens; ties go to the lower token_id';
COMMENT ON COLUMN neuron_vocabulary.congruence IS '⟨W_out, W_U⟩, centred logits per unit of activation at σ = 1; the null of the largest is in weight_stats.congruence_z, none is given for the others';

CREATE VIEW neuron_reads AS
SELECT r.model_id, r.layer, r.neuron, CASE WHEN r.source_head IS NULL THEN 'neuron' ELSE 'head' END AS component,
       r.rank, r.source_layer, r.source_head, r.source_neuron, r.weight, r.z
FROM base.neuron_read r;
COMMENT ON VIEW neuron_reads IS 'From which heads and neurons can this neuron read? One row per neuron, kind of source and rank: the strongest virtual weights (Elhage et al. 2021) from earlier layers.';
COMMENT ON COLUMN neuron_reads.component IS 'what the source is: head or neuron';
COMMENT ON COLUMN neuron_reads.rank IS 'from 1 in each kind, by |weight|';
COMMENT ON COLUMN neuron_reads.weight IS 'of a head ‖W_O W_in‖, pre-activation units per unit of z; of a neuron W_out W_in, per unit of activation; both at σ = 1 of the LayerNorm between';
COMMENT ON COLUMN neuron_reads.z IS 'weight (of a head weight²) in std of its null, less its mean there: W_in turned at random, in closed form. Listed are the largest: among n sources the largest |z| is by chance some √(2 ln n), for neurons';

CREATE VIEW direct_path AS
SELECT f.model_id, f.token_id, t.token, f.rank, f.next_token_id, n.token AS next_token, f.logprob
FROM base.direct_path f
LEFT JOIN vocabulary t ON t.model_id = f.model_id AND t.token_id = f.token_id
LEFT JOIN vocabulary n ON n.model_id = f.model_id AND n.token_id = f.next_token_id;
COMMENT ON VIEW direct_path IS 'What would follow this token if no head and no neuron did anything? One row per token and rank: softmax of LayerNorm(W_E) W_U + b_U, the LayerNorm with the embedding''s own σ.';
COMMENT ON COLUMN direct_path.rank IS 'from 1, among real tokens; ties go to the lower token_id';
COMMENT ON COLUMN direct_path.logprob IS 'log-probability over all rows of W_U, nats; no null is given: bigram_agreement has that of another token''s direct path';

CREATE VIEW bigrams AS
WITH counted AS (
    SELECT run_id, token_id, next_token_id, count(*) AS count
    FROM base.position WHERE next_token_id IS NOT NULL GROUP BY ALL
)
SELECT b.run_id, b.token_id, t.token, b.next_token_id, n.token AS next_token, b.count,
       b.count / sum(b.count) OVER (PARTITION BY b.run_id, b.token_id) AS share
FROM counted b
JOIN base.run r USING (run_id)
LEFT JOIN vocabulary t ON t.model_id = r.model_id AND t.token_id = b.token_id
LEFT JOIN vocabulary n ON n.model_id = r.model_id AND n.token_id = b.next_token_id;
COMMENT ON VIEW bigrams IS 'What follows this token in the corpus? One row per run, token and token that follows it.';
COMMENT ON COLUMN bigrams.count IS 'positions';
COMMENT ON COLUMN bigrams.share IS 'of the positions of the token that have a next one';

CREATE VIEW bigram_agreement AS
SELECT a.run_id, a.token_id, t.token, a.count, a.next_tokens, a.rank_correlation, a.divergence, a.overlap,
       a.shuffled_rank_correlation, a.shuffled_divergence, a.shuffled_overlap
FROM base.bigram_agreement a
JOIN base.run r USING (run_id)
LEFT JOIN vocabulary t ON t.model_id = r.model_id AND t.token_id = a.token_id;
COMMENT ON VIEW bigram_agreement IS 'Is what follows this token in the corpus what the direct path puts there? One row per finished run and token, special tokens left out unless asked for. shuffled_…: beside the direct path of another token of the run, drawn by chance.';
COMMENT ON COLUMN bigram_agreement.count IS 'positions of the token that have a next one';
COMMENT ON COLUMN bigram_agreement.next_tokens IS 'different tokens that follow it';
COMMENT ON COLUMN bigram_agreement.rank_correlation IS 'Spearman''s, of the counts (ties averaged) and the direct path''s logits, over all real tokens';
COMMENT ON COLUMN bigram_agreement.divergence IS 'Kullback-Leibler, of the bigrams from the direct path''s softmax over all rows of W_U, nats';
COMMENT ON COLUMN bigram_agreement.overlap IS 'share of the ten most frequent next tokens (fewer where fewer follow) that are among the direct path''s first ten';
COMMENT ON COLUMN bigram_agreement.shuffled_rank_correlation IS 'the null of the same, beside another token''s direct path: one seeded draw for each token';
COMMENT ON COLUMN bigram_agreement.shuffled_divergence IS 'the same, nats, beside another token''s direct path';
COMMENT ON COLUMN bigram_agreement.shuffled_overlap IS 'the same share, beside another token''s direct path';

CREATE VIEW bigram_summary AS
WITH weighted AS (SELECT *, count / sum(count) OVER (PARTITION BY run_id) AS weight FROM base.bigram_agreement)
SELECT run_id, count(*) AS tokens, sum(count)::BIGINT AS positions,
       sum(weight * rank_correlation) AS rank_correlation, sum(weight * shuffled_rank_correlation) AS shuffled_rank_correlation,
       sum(weight * divergence) AS divergence, sum(weight * shuffled_divergence) AS shuffled_divergence,
       sum(weight * overlap) AS overlap, sum(weight * shuffled_overlap) AS shuffled_overlap
FROM weighted GROUP BY run_id;
COMMENT ON VIEW bigram_summary IS 'How far do the embeddings alone give the corpus''s bigrams? One row per finished run: bigram_agreement, each token weighted by its positions, beside its shuffled baseline.';
COMMENT ON COLUMN bigram_summary.tokens IS 'different tokens that something follows';
COMMENT ON COLUMN bigram_summary.rank_correlation IS 'weighted mean of Spearman''s';
COMMENT ON COLUMN bigram_summary.divergence IS 'weighted mean, nats: the conditional Kullback-Leibler divergence';
COMMENT ON COLUMN bigram_summary.overlap IS 'weighted mean share of the first ten';
COMMENT ON COLUMN bigram_summary.shuffled_rank_correlation IS 'baseline of the same';
COMMENT ON COLUMN bigram_summary.shuffled_divergence IS 'baseline of the same, nats';
COMMENT ON COLUMN bigram_summary.shuffled_overlap IS 'baseline of the same share';

CREATE VIEW bigram_distances AS
SELECT d.run_id, d.min_count, d.max_count, d.bigrams, d.inner_product, d.cosine, d.cosine_std FROM base.bigram_distance d;
COMMENT ON VIEW bigram_distances IS 'Are tokens that follow one another often near each other, input to output? One row per finished run and range of counts: W_E of the first, as the final LayerNorm reads it, and W_U of the second.';
COMMENT ON COLUMN bigram_distances.min_count IS 'positions; 0: pairs of a token that something follows and one that follows something, which do not occur';
COMMENT ON COLUMN bigram_distances.max_count IS 'positions';
COMMENT ON COLUMN bigram_distances.bigrams IS 'different pairs of that many occurrences';
COMMENT ON COLUMN bigram_distances.inner_product IS 'mean over the pairs: the direct path''s centred logit less b_U; its null is the row of the pairs that do not occur';
COMMENT ON COLUMN bigram_distances.cosine IS 'mean cosine of the two vectors over the pairs; its null is the row of the pairs that do not occur';
COMMENT ON COLUMN bigram_distances.cosine_std IS 'deviation of the cosine over the pairs';

-- 9. What the weights say about heads; and what heads do, seen and read ------------------------------

CREATE TYPE composition_kind AS ENUM ('Q', 'K', 'V');

CREATE TABLE base.head_vocabulary (
    model_id INTEGER   NOT NULL,
    layer    UTINYINT  NOT NULL,
    head     UTINYINT  NOT NULL,
    source   INTEGER   NOT NULL,
    rank     USMALLINT NOT NULL,
    output   INTEGER   NOT NULL,
    effect   FLOAT     NOT NULL
);
COMMENT ON TABLE base.head_vocabulary IS 'One row per head, frequent source token and rank, in the order of the columns; source and output are token ids.';
INSERT INTO base.catalogue VALUES ('head_vocabulary', 'model', ['model_id', 'layer', 'head', 'source', 'rank'], ['layer', 'head', 'source', 'rank'], true, NULL);

CREATE TABLE base.head_pair (
    model_id    INTEGER   NOT NULL,
    layer       UTINYINT  NOT NULL,
    head        UTINYINT  NOT NULL,
    rank        USMALLINT NOT NULL,
    destination INTEGER   NOT NULL,
    source      INTEGER   NOT NULL,
    attention   FLOAT     NOT NULL
);
COMMENT ON TABLE base.head_pair IS 'One row per head and rank, in the order of the columns; destination and source are token ids.';
INSERT INTO base.catalogue VALUES ('head_pair', 'model', ['model_id', 'layer', 'head', 'rank'], ['layer', 'head', 'rank'], true, NULL);

CREATE TABLE base.skip_trigram (
    model_id    INTEGER   NOT NULL,
    layer       UTINYINT  NOT NULL,
    head        UTINYINT  NOT NULL,
    rank        USMALLINT NOT NULL,
    source      INTEGER   NOT NULL,
    destination INTEGER   NOT NULL,
    output      INTEGER   NOT NULL,
    attention   FLOAT     NOT NULL,
    strength    FLOAT     NOT NULL
);
COMMENT ON TABLE base.skip_trigram IS 'One row per head and rank, in the order of the columns; source, destination and output are token ids.';
INSERT INTO base.catalogue VALUES ('skip_trigram', 'model', ['model_id', 'layer', 'head', 'rank'], ['layer', 'head', 'rank'], true, NULL);

CREATE TABLE base.head_weight (
    model_id         INTEGER  NOT NULL,
    layer            UTINYINT NOT NULL,
    head             UTINYINT NOT NULL,
    ov_norm          FLOAT    NOT NULL,
    qk_norm          FLOAT    NOT NULL,
    copying          FLOAT    NOT NULL,
    copying_z        FLOAT,
    copying_rank     FLOAT    NOT NULL,
    matching         FLOAT    NOT NULL,
    matching_z       FLOAT,
    random_self      FLOAT    NOT NULL,
    random_previous  FLOAT    NOT NULL,
    random_first     FLOAT    NOT NULL,
    random_entropy   FLOAT    NOT NULL,
    random_duplicate FLOAT    NOT NULL,
    random_induction FLOAT    NOT NULL
);
COMMENT ON TABLE base.head_weight IS 'One row per head: its scores, and mean attention on repeated random tokens.';
INSERT INTO base.catalogue VALUES ('head_weight', 'model', ['model_id', 'layer', 'head'], ['layer', 'head'], true, NULL);

CREATE TABLE base.head_distance (
    model_id INTEGER   NOT NULL,
    layer    UTINYINT  NOT NULL,
    head     UTINYINT  NOT NULL,
    distance USMALLINT NOT NULL,
    score    FLOAT     NOT NULL
);
COMMENT ON TABLE base.head_distance IS 'One row per head and distance, from 0.';
INSERT INTO base.catalogue VALUES ('head_distance', 'model', ['model_id', 'layer', 'head', 'distance'], ['layer', 'head', 'distance'], true, NULL);

CREATE TABLE base.head_composition (
    model_id      INTEGER          NOT NULL,
    kind          composition_kind NOT NULL,
    earlier_layer UTINYINT         NOT NULL,
    earlier_head  UTINYINT         NOT NULL,
    layer         UTINYINT         NOT NULL,
    head          UTINYINT         NOT NULL,
    score         FLOAT            NOT NULL,
    z             FLOAT,
    p             FLOAT
);
COMMENT ON TABLE base.head_composition IS 'One row per kind, head and head of an earlier layer.';
INSERT INTO base.catalogue VALUES ('head_composition', 'model', ['model_id', 'kind', 'earlier_layer', 'earlier_head', 'layer', 'head'], ['kind', 'layer', 'head', 'earlier_layer', 'earlier_head'], true, NULL);

CREATE VIEW weight_stats AS
SELECT w.model_id, w.layer, NULL::UTINYINT AS head, w.neuron, w.cosine, w.cosine * sqrt(m.dimensions) AS cosine_z,
       w.in_norm, w.out_norm, w.bias, t.token_id AS next_token_id, t.token AS next_token, t.congruence,
       (t.congruence / nullif(w.out_norm, 0) - m.congruence_mean) / m.congruence_std AS congruence_z, m.directions AS draws
FROM base.neuron_weight w
LEFT JOIN base.weights m ON m.model_id = w.model_id
LEFT JOIN neuron_vocabulary t
  ON t.model_id = w.model_id AND t.layer = w.layer AND t.neuron = w.neuron AND t.direction = 'promotes' AND t.rank = 1
UNION ALL BY NAME
SELECT w.model_id, w.layer, w.head, NULL::UINTEGER AS neuron, w.copying, w.copying_z, w.copying_rank,
       w.matching, w.matching_z, w.ov_norm, w.qk_norm, m.rotations AS draws
FROM base.head_weight w
LEFT JOIN base.weights m ON m.model_id = w.model_id;
COMMENT ON VIEW weight_stats IS 'What do its weights say a neuron or head does? One row per neuron (head is NULL) and per head (neuron is NULL); LayerNorm folded into the reading weights, the writing weights and W_U centred.';
COMMENT ON COLUMN weight_stats.cosine IS 'between what a neuron reads, W_in, and what it writes, W_out: near −1 it erases, near 1 it amplifies';
COMMENT ON COLUMN weight_stats.cosine_z IS 'the cosine in std of its null: that of random directions has mean 0 and std 1 / √(d_model − 1)';
COMMENT ON COLUMN weight_stats.in_norm IS '‖W_in‖, pre-activation units per unit of the normalised residual stream';
COMMENT ON COLUMN weight_stats.out_norm IS '‖W_out‖, residual stream per unit of activation';
COMMENT ON COLUMN weight_stats.bias IS 'b_in, the LayerNorm''s bias included: the pre-activation where the stream has nothing it reads';
COMMENT ON COLUMN weight_stats.next_token IS 'a neuron''s token of highest congruence (Neo, Cohen and Barez 2024)';
COMMENT ON COLUMN weight_stats.congruence IS 'of that token: centred logits per unit of activation at σ = 1';
COMMENT ON COLUMN weight_stats.congruence_z IS 'the congruence in std of its null, less its mean there: the largest, over all real tokens, of a random direction of the same length';
COMMENT ON COLUMN weight_stats.draws IS 'n: seeded draws of the null behind a neuron''s congruence_z, or behind a head''s copying_z and matching_z';
COMMENT ON COLUMN weight_stats.copying IS 'a head''s Σ Re λ / Σ |λ| of W_E W_OV W_U, −1 to 1: towards 1 it raises what it attends to (Elhage et al. 2021)';
COMMENT ON COLUMN weight_stats.copying_z IS 'copying in std of its null, whose mean is 0: what the head reads is turned at random against what it writes';
COMMENT ON COLUMN weight_stats.copying_rank IS 'median rank, from 1, of a frequent token among the tokens that attending to it raises; no null is given: without a preference it is some half of the real tokens';
COMMENT ON COLUMN weight_stats.matching IS 'Σ Re λ / Σ |λ| of W_E W_QK W_Eᵀ, −1 to 1: towards 1 a token attends to itself elsewhere (rotary at distance 0)';
COMMENT ON COLUMN weight_stats.matching_z IS 'matching in std of its null, whose mean is 0: queries are turned at random against keys';
COMMENT ON COLUMN weight_stats.ov_norm IS '‖W_V W_O‖, Frobenius';
COMMENT ON COLUMN weight_stats.qk_norm IS '‖W_Q W_Kᵀ‖, Frobenius';

CREATE VIEW head_vocabulary AS
SELECT e.model_id, e.layer, e.head, e.source AS source_token_id, s.token AS source_token, e.rank,
       e.output AS token_id, t.token, e.effect
FROM base.head_vocabulary e
LEFT JOIN vocabulary s ON s.model_id = e.model_id AND s.token_id = e.source
LEFT JOIN vocabulary t ON t.model_id = e.model_id AND t.token_id = e.output;
COMMENT ON VIEW head_vocabulary IS 'What would this head write if it attended to that token? Its OV circuit (Elhage et al. 2021), from the weights alone: one row per head, frequent source token and rank among the tokens it raises most.';
COMMENT ON COLUMN head_vocabulary.source_token_id IS 'among the 256 commonest of the texts that were in the store when the weights were read (`annotate weights --fresh` asks anew), or else the tokenizer''s first merges';
COMMENT ON COLUMN head_vocabulary.rank IS 'from 1, among real tokens; ties go to the lower token_id';
COMMENT ON COLUMN head_vocabulary.effect IS 'LN(W_E[source]) W_V W_O W_U at the token: centred logits at attention 1 and final σ = 1; no null is given: it is the largest of all real tokens';

CREATE VIEW head_pairs AS
SELECT e.model_id, e.layer, e.head, e.rank, e.destination AS destination_token_id, d.token AS destination_token,
       e.source AS source_token_id, s.token AS source_token, w.distance, e.attention
FROM base.head_pair e
LEFT JOIN base.weights w ON w.model_id = e.model_id
LEFT JOIN vocabulary d ON d.model_id = e.model_id AND d.token_id = e.destination
LEFT JOIN vocabulary s ON s.model_id = e.model_id AND s.token_id = e.source;
COMMENT ON VIEW head_pairs IS 'From which token would this head look at which? Its QK circuit (Elhage et al. 2021) among frequent tokens, from the weights alone: one row per head and rank.';
COMMENT ON COLUMN head_pairs.distance IS 'tokens from source to destination: rotary embeddings make the circuit depend on it (`annotate weights --distance`)';
COMMENT ON COLUMN head_pairs.source_token_id IS 'among the same tokens as in head_vocabulary; destination_token_id too';
COMMENT ON COLUMN head_pairs.attention IS 'share of the destination''s attention, a probability, if each frequent token stood once so far before it: rotary embeddings and biases included; no null is given: without a preference each has an equal share';

CREATE VIEW skip_trigrams AS
SELECT e.model_id, e.layer, e.head, e.rank, e.source AS source_token_id, s.token AS source_token,
       e.destination AS destination_token_id, d.token AS destination_token,
       e.output AS output_token_id, o.token AS output_token, w.distance, e.attention, e.strength
FROM base.skip_trigram e
LEFT JOIN base.weights w ON w.model_id = e.model_id
LEFT JOIN vocabulary s ON s.model_id = e.model_id AND s.token_id = e.source
LEFT JOIN vocabulary d ON d.model_id = e.model_id AND d.token_id = e.destination
LEFT JOIN vocabulary o ON o.model_id = e.model_id AND o.token_id = e.output;
COMMENT ON VIEW skip_trigrams IS 'Which source … destination → output does this head know by its weights alone (Elhage et al. 2021)? One row per head and rank: source and destination are frequent tokens, output is any.';
COMMENT ON COLUMN skip_trigrams.source_token_id IS 'among the same tokens as in head_vocabulary; destination_token_id too';
COMMENT ON COLUMN skip_trigrams.distance IS 'tokens from source to destination, as in head_pairs';
COMMENT ON COLUMN skip_trigrams.attention IS 'the source''s share of the destination''s attention, a probability, as in head_pairs';
COMMENT ON COLUMN skip_trigrams.strength IS 'attention times the effect of head_vocabulary: centred logits at final σ = 1; no null is given: it is the largest of all combinations';

CREATE VIEW head_distances AS
SELECT e.model_id, e.layer, e.head, e.distance, e.score,
       exp(e.score - e.highest) / sum(exp(e.score - e.highest)) OVER (PARTITION BY e.model_id, e.layer, e.head) AS attention
FROM (SELECT *, max(score) OVER (PARTITION BY model_id, layer, head) AS highest FROM base.head_distance) e;
COMMENT ON VIEW head_distances IS 'Which distance does this head prefer, whatever stands there? From its QK circuit alone, at the mean embedding as query and key: one row per head and distance.';
COMMENT ON COLUMN head_distances.distance IS 'tokens back, from 0';
COMMENT ON COLUMN head_distances.score IS 'attention score before the softmax, rotary embeddings and biases included';
COMMENT ON COLUMN head_distances.attention IS 'softmax of the score over these distances, a probability; no null is given: without a preference each has an equal share';

CREATE VIEW head_composition AS
WITH tested AS (
    SELECT m.model_id, 1 / sqrt(w.dimensions) AS baseline, (3 * m.n_heads ** 2 * m.n_layers * (m.n_layers - 1) / 2)::BIGINT AS pairs
    FROM base.model m JOIN base.weights w USING (model_id)
)
SELECT e.model_id, e.kind, e.earlier_layer, e.earlier_head, e.layer, e.head, e.score, t.baseline, e.z, e.p, t.pairs,
       e.p::DOUBLE * t.pairs AS by_chance
FROM base.head_composition e
LEFT JOIN tested t ON t.model_id = e.model_id;
COMMENT ON VIEW head_composition IS 'Which head reads what an earlier one writes? One row per kind, head and head of an earlier layer.';
COMMENT ON COLUMN head_composition.kind IS 'whether queries (Q), keys (K; rotary at distance 0) or values (V) read it';
COMMENT ON COLUMN head_composition.score IS '‖A B‖ / (‖A‖ ‖B‖), Frobenius: A is the earlier head''s W_OV, B the later''s W_QK (Q), its transpose (K) or W_OV (V) (Elhage et al. 2021)';
COMMENT ON COLUMN head_composition.baseline IS 'root mean square of the score under its null: B turned at random against A, each with its singular values, in the d_model − 1 dimensions of the centred residual stream';
COMMENT ON COLUMN head_composition.z IS 'score² in std of its null, less its mean there, in closed form: what to rank by; below 0 the later head reads less of the earlier one than by chance';
COMMENT ON COLUMN head_composition.p IS 'probability of a |z| this large under the null, by its mean, std and skewness; 1e-30 stands for anything below';
COMMENT ON COLUMN head_composition.pairs IS 'n: pairs of heads of the model, times the three kinds';
COMMENT ON COLUMN head_composition.by_chance IS 'how many of these pairs have a |z| this large under the null: p × pairs';

CREATE VIEW head_behaviour AS
WITH reads AS (
    SELECT c.model_id, c.layer, c.head, max(d.attention * c.z) AS induction
    FROM head_composition c
    JOIN head_distances d ON d.model_id = c.model_id AND d.layer = c.earlier_layer AND d.head = c.earlier_head
    WHERE c.kind = 'K' AND d.distance = 1
    GROUP BY c.model_id, c.layer, c.head
), seen AS (
    SELECT r.model_id, s.* FROM head_stats s JOIN base.run r USING (run_id)
)
SELECT w.model_id, s.run_id, w.layer, w.head,
       s.attention_previous AS corpus_previous, w.random_previous, d.attention AS weights_previous,
       s.attention_duplicate AS corpus_duplicate, w.random_duplicate, w.matching AS weights_duplicate,
       s.attention_induction AS corpus_induction, w.random_induction, reads.induction AS weights_induction,
       s.attention_first AS corpus_first, w.random_first, s.attention_self AS corpus_self, w.random_self,
       s.entropy AS corpus_entropy, w.random_entropy, w.copying, w.copying_z
FROM base.head_weight w
JOIN head_distances d ON d.model_id = w.model_id AND d.layer = w.layer AND d.head = w.head AND d.distance = 1
LEFT JOIN reads ON reads.model_id = w.model_id AND reads.layer = w.layer AND reads.head = w.head
LEFT JOIN seen s ON s.model_id = w.model_id AND s.layer = w.layer AND s.head = w.head;
COMMENT ON VIEW head_behaviour IS 'Does a head do what its weights say? Its behaviour on a run''s corpus, on repeated random tokens, and as read from the weights: one row per head and run of its model, run_id NULL where there is none.';
COMMENT ON COLUMN head_behaviour.corpus_previous IS 'mean attention to the position before, as in head_stats';
COMMENT ON COLUMN head_behaviour.random_previous IS 'the same on random tokens: ten sequences of 25 distinct ones, four times over (Olsson et al. 2022)';
COMMENT ON COLUMN head_behaviour.weights_previous IS 'preference for distance 1, a probability, as in head_distances; no null is given';
COMMENT ON COLUMN head_behaviour.corpus_duplicate IS 'mean attention to earlier occurrences of the same token, over the positions that have one';
COMMENT ON COLUMN head_behaviour.random_duplicate IS 'the same on random tokens';
COMMENT ON COLUMN head_behaviour.weights_duplicate IS 'matching, as in weight_stats; its null is in weight_stats.matching_z';
COMMENT ON COLUMN head_behaviour.corpus_induction IS 'mean attention to what followed an earlier occurrence of the token, over the positions that have one';
COMMENT ON COLUMN head_behaviour.random_induction IS 'the same on random tokens';
COMMENT ON COLUMN head_behaviour.weights_induction IS 'the largest, over earlier heads, of weights_previous there times the z of K-composition (head_composition), in std of its null; NULL in layer 0';
COMMENT ON COLUMN head_behaviour.corpus_first IS 'mean attention to the window''s first position';
COMMENT ON COLUMN head_behaviour.random_first IS 'the same on random tokens';
COMMENT ON COLUMN head_behaviour.corpus_self IS 'mean attention to the position itself';
COMMENT ON COLUMN head_behaviour.random_self IS 'the same on random tokens';
COMMENT ON COLUMN head_behaviour.corpus_entropy IS 'mean entropy of the attention, nats';
COMMENT ON COLUMN head_behaviour.random_entropy IS 'the same on random tokens, nats';
COMMENT ON COLUMN head_behaviour.copying IS 'as in weight_stats';
COMMENT ON COLUMN head_behaviour.copying_z IS 'as in weight_stats: copying in std of its null';

-- 10. What feeds a neuron, where that was asked for; and the prompts of the neurons that were looked up ----

CREATE TYPE neuron_source AS ENUM ('embed', 'pos_embed', 'head', 'attn_bias', 'mlp', 'mlp_bias', 'b_in');

CREATE MACRO base.is_next_token(token) AS starts_with(token, ' ') AND length(token) > 2;
COMMENT ON MACRO base.is_next_token IS 'Whether a neuron of this next-token is eligible for a look-up (Neo, Cohen and Barez 2024): it begins a word.';

CREATE TABLE base.next_token_neuron (
    run_id      INTEGER   NOT NULL,
    layer       UTINYINT  NOT NULL,
    neuron      UINTEGER  NOT NULL,
    is_baseline BOOLEAN   NOT NULL,
    windows     USMALLINT NOT NULL,
    max_tokens  USMALLINT NOT NULL,
    share       DOUBLE    NOT NULL,
    std_threshold  DOUBLE    NOT NULL,
    prompts     USMALLINT NOT NULL
);
COMMENT ON TABLE base.next_token_neuron IS 'One row per neuron of a run that was looked up: with which settings, and how many prompts it has. Written in the transaction that writes them.';
INSERT INTO base.catalogue VALUES ('next_token_neuron', 'run', ['run_id', 'layer', 'neuron'], [], false, NULL);

CREATE TABLE base.neuron_occurrence (
    run_id            INTEGER   NOT NULL,
    layer             UTINYINT  NOT NULL,
    neuron            UINTEGER  NOT NULL,
    prompt            USMALLINT,
    duplicate_of      USMALLINT,
    first_position_id BIGINT    NOT NULL,
    position_id       BIGINT    NOT NULL,
    tokens            USMALLINT NOT NULL,
    pre_activation    FLOAT     NOT NULL,
    activation        FLOAT     NOT NULL,
    closure           FLOAT     NOT NULL
);
COMMENT ON TABLE base.neuron_occurrence IS 'One row per neuron and position that was asked for, read with its whole context (prompt is NULL), and per prompt of a neuron that was looked up.';
INSERT INTO base.catalogue VALUES ('neuron_occurrence', 'run', ['run_id', 'layer', 'neuron', 'prompt', 'position_id'], ['prompt'], false, NULL);

CREATE TABLE base.neuron_input (
    run_id       INTEGER       NOT NULL,
    layer        UTINYINT      NOT NULL,
    neuron       UINTEGER      NOT NULL,
    prompt       USMALLINT,
    position_id  BIGINT        NOT NULL,
    component    neuron_source NOT NULL,
    source_layer UTINYINT,
    source_head  UTINYINT,
    value        FLOAT         NOT NULL
);
COMMENT ON TABLE base.neuron_input IS 'One row per row of base.neuron_occurrence and source.';
INSERT INTO base.catalogue VALUES ('neuron_input', 'run', ['run_id', 'layer', 'neuron', 'prompt', 'position_id', 'component', 'source_layer', 'source_head'], ['prompt', 'component', 'source_layer', 'source_head'], false, NULL);

CREATE VIEW neuron_inputs AS
SELECT i.run_id, i.position_id, i.layer, i.neuron, i.component, i.source_layer, i.source_head, i.value,
       o.pre_activation, o.activation, o.closure
FROM base.neuron_input i JOIN base.neuron_occurrence o USING (run_id, position_id, layer, neuron)
WHERE i.prompt IS NULL AND o.prompt IS NULL;
COMMENT ON VIEW neuron_inputs IS 'What feeds this neuron here? One row per position, neuron and source, where `annotate inputs` was asked: at frozen LayerNorm scale the values sum to the pre-activation (Neo, Cohen and Barez 2024).';
COMMENT ON COLUMN neuron_inputs.component IS 'embed; head; attn_bias and mlp_bias: what a layer adds whatever stands there; mlp: all neurons of a layer; b_in: the neuron''s own bias, the LayerNorm''s included';
COMMENT ON COLUMN neuron_inputs.source_layer IS 'before the neuron''s own (blocks are parallel); NULL for embed and b_in';
COMMENT ON COLUMN neuron_inputs.value IS 'share of the pre-activation, in its units';
COMMENT ON COLUMN neuron_inputs.pre_activation IS 'before GELU (hook_pre), not rounded; the same for all sources';
COMMENT ON COLUMN neuron_inputs.activation IS 'after GELU (hook_post), not rounded; the same for all sources';
COMMENT ON COLUMN neuron_inputs.closure IS 'sum of the values as stored minus the pre-activation, in its units';

CREATE VIEW next_token_neurons AS
SELECT l.run_id, l.layer, l.neuron, l.is_baseline, v.token AS next_token, v.congruence,
       l.windows, l.max_tokens, l.share, l.std_threshold, l.prompts
FROM base.next_token_neuron l JOIN base.run r USING (run_id)
LEFT JOIN neuron_vocabulary v
  ON v.model_id = r.model_id AND v.layer = l.layer AND v.neuron = l.neuron AND v.direction = 'promotes' AND v.rank = 1;
COMMENT ON VIEW next_token_neurons IS 'Which next-token neurons were looked up, and which beside them? One row per neuron that `annotate next-token` has done.';
COMMENT ON COLUMN next_token_neurons.is_baseline IS 'drawn by chance, not chosen: of the layer''s neurons nearest in mean activation to a chosen one, those whose next-token does not begin a word';
COMMENT ON COLUMN next_token_neurons.congruence IS 'with its next-token: centred logits per unit of activation at σ = 1; its null is in weight_stats.congruence_z';
COMMENT ON COLUMN next_token_neurons.windows IS 'how many of neuron_windows were made prompts of, at most';
COMMENT ON COLUMN next_token_neurons.max_tokens IS 'tokens: where a prompt would have needed more, there is none';
COMMENT ON COLUMN next_token_neurons.share IS 'of the activation that a prompt keeps at least, 0 to 1';
COMMENT ON COLUMN next_token_neurons.std_threshold IS 'standard deviations above the mean from which a head counts as active, as in active_heads';
COMMENT ON COLUMN next_token_neurons.prompts IS 'how many there are, duplicates included';

CREATE VIEW prompts AS
SELECT o.run_id, o.layer, o.neuron, o.prompt, o.duplicate_of, p.window_id, o.first_position_id, o.position_id, o.tokens,
       base.span(p.document_id, f.char_start, p.char_end) AS text,
       w.value AS window_activation, o.activation, o.pre_activation, o.closure
FROM base.neuron_occurrence o
JOIN base.position p ON p.run_id = o.run_id AND p.position_id = o.position_id
JOIN base.position f ON f.run_id = o.run_id AND f.position_id = o.first_position_id
LEFT JOIN base.top_entry w
  ON w.run_id = o.run_id AND w.kind = 'neuron' AND w.list = 'window' AND w.layer = o.layer AND w.unit = o.neuron AND w.rank = o.prompt
WHERE o.prompt IS NOT NULL;
COMMENT ON VIEW prompts IS 'What is the least context that fires this neuron? One row per neuron looked up and prompt: of one of its highest windows the shortest text up to the maximum that keeps the lookup''s share of the activation.';
COMMENT ON COLUMN prompts.prompt IS 'the window''s rank in neuron_windows';
COMMENT ON COLUMN prompts.duplicate_of IS 'the neuron''s first prompt of the same tokens; NULL for that one: count those';
COMMENT ON COLUMN prompts.first_position_id IS 'where its text begins';
COMMENT ON COLUMN prompts.tokens IS 'that were read, a BOS included where the run has one';
COMMENT ON COLUMN prompts.window_activation IS 'with the whole context, after GELU, as in neuron_windows';
COMMENT ON COLUMN prompts.activation IS 'after GELU at the last token, when the prompt alone is read';
COMMENT ON COLUMN prompts.pre_activation IS 'the same before GELU';
COMMENT ON COLUMN prompts.closure IS 'sum of prompt_inputs minus pre_activation, in its units';

CREATE VIEW prompt_inputs AS
SELECT e.run_id, e.layer, e.neuron, e.prompt, e.component, e.source_layer, e.source_head, e.value
FROM base.neuron_input e WHERE e.prompt IS NOT NULL;
COMMENT ON VIEW prompt_inputs IS 'What feeds this neuron at the end of this prompt, when the prompt alone is read? One row per prompt and source, as in neuron_inputs.';
COMMENT ON COLUMN prompt_inputs.value IS 'share of the pre-activation, in its units';

CREATE VIEW base.head_share AS
SELECT i.*, (i.value - avg(i.value) OVER of_prompt) / nullif(stddev_pop(i.value) OVER of_prompt, 0) AS above_mean
FROM prompt_inputs i WHERE i.component = 'head'
WINDOW of_prompt AS (PARTITION BY i.run_id, i.layer, i.neuron, i.prompt);
COMMENT ON VIEW base.head_share IS 'One row per prompt and earlier head: by how many standard deviations of all earlier heads its share is above their mean.';

CREATE MACRO active_heads(std_threshold := NULL, run := NULL) AS TABLE
SELECT s_.run_id, s_.layer, s_.neuron, s_.prompt, s_.source_layer, s_.source_head, s_.value
FROM base.head_share s_ JOIN base.next_token_neuron l_ USING (run_id, layer, neuron)
WHERE s_.run_id = base.chosen_run(run) AND s_.above_mean > coalesce(std_threshold, l_.std_threshold)
ORDER BY s_.layer, s_.neuron, s_.prompt, s_.value DESC;
COMMENT ON MACRO TABLE active_heads IS 'Which heads fire this neuron on this prompt? Those with a share above mean + std_threshold · standard deviation of all earlier heads'' (Neo, Cohen and Barez 2024); with fewer than 6 of them none is above 2. std_threshold := NULL: as it was looked up, 2 by default.';

CREATE MACRO relevant_heads(low := 0.25, high := 0.75, std_threshold := NULL, run := NULL) AS TABLE
WITH different AS (
    SELECT run_id, layer, neuron, prompt, count(*) OVER (PARTITION BY layer, neuron) AS prompts
    FROM base.neuron_occurrence
    WHERE run_id = base.chosen_run(run) AND prompt IS NOT NULL AND duplicate_of IS NULL
), counted AS (
    SELECT a.run_id, a.layer, a.neuron, l.is_baseline, a.source_layer, a.source_head, count(*) AS active_prompts, d.prompts
    FROM active_heads(std_threshold := std_threshold, run := run) a
    JOIN different d USING (run_id, layer, neuron, prompt)
    JOIN base.next_token_neuron l USING (run_id, layer, neuron)
    GROUP BY ALL
)
SELECT *, c.active_prompts / c.prompts AS active_fraction FROM counted c
WHERE active_fraction BETWEEN low AND high
ORDER BY c.layer, c.neuron, active_fraction DESC, c.source_layer, c.source_head;
COMMENT ON MACRO TABLE relevant_heads IS 'Which heads tell this neuron''s prompts apart? Those active in a share of its different prompts between low and high; is_baseline: of a neuron drawn by chance.';

-- 11. What the relevant heads of those neurons react to: explanations that are scored, and ablation --------

CREATE TYPE explanation_method AS ENUM ('decision_list', 'language_model');

CREATE TABLE base.head_prompt (
    run_id              INTEGER   NOT NULL,
    layer               UTINYINT  NOT NULL,
    neuron              UINTEGER  NOT NULL,
    source_layer        UTINYINT  NOT NULL,
    source_head         UTINYINT  NOT NULL,
    prompt              USMALLINT NOT NULL,
    is_active           BOOLEAN   NOT NULL,
    is_held_out         BOOLEAN   NOT NULL,
    ablated_activation  FLOAT     NOT NULL,
    probability         FLOAT     NOT NULL,
    ablated_probability FLOAT     NOT NULL
);
COMMENT ON TABLE base.head_prompt IS 'One row per relevant head of a neuron that was looked up and different prompt of that neuron.';
INSERT INTO base.catalogue VALUES ('head_prompt', 'run', ['run_id', 'layer', 'neuron', 'source_layer', 'source_head', 'prompt'], ['source_layer', 'source_head', 'prompt'], false, NULL);

CREATE TABLE base.ablation (
    run_id        INTEGER   NOT NULL,
    layer         UTINYINT  NOT NULL,
    neuron        UINTEGER  NOT NULL,
    source_layer  UTINYINT  NOT NULL,
    source_head   UTINYINT  NOT NULL,
    activation_p  DOUBLE    NOT NULL,
    probability_p DOUBLE    NOT NULL
);
COMMENT ON TABLE base.ablation IS 'One row per relevant head of a neuron that was looked up: how often labels dealt out by chance give the distances of the view ablations. Written with its rows of base.head_prompt.';
INSERT INTO base.catalogue VALUES ('ablation', 'run', ['run_id', 'layer', 'neuron', 'source_layer', 'source_head'], ['source_layer', 'source_head'], false, NULL);

CREATE TABLE base.explanation (
    explanation_id BIGINT    NOT NULL,
    run_id         INTEGER   NOT NULL,
    layer          UTINYINT  NOT NULL,
    neuron         UINTEGER  NOT NULL,
    source_layer   UTINYINT  NOT NULL,
    source_head    UTINYINT  NOT NULL,
    method         explanation_method NOT NULL,
    language_model VARCHAR,
    prompt_version INTEGER,
    text           VARCHAR,
    why_none       VARCHAR,
    tokens_in      INTEGER,
    tokens_out     INTEGER,
    cost           DOUBLE,
    seconds        DOUBLE      NOT NULL,
    made           TIMESTAMPTZ NOT NULL,
    CHECK ((text IS NULL) <> (why_none IS NULL)),
    CHECK ((method = 'language_model') = (language_model IS NOT NULL AND prompt_version IS NOT NULL))
);
COMMENT ON TABLE base.explanation IS 'One row per relevant head of a neuron, method, language model and version of its prompt; the answer of a language model is committed before it is asked again.';
INSERT INTO base.catalogue VALUES ('explanation', 'run', ['explanation_id'], [], false, NULL);

CREATE TABLE base.explanation_answer (
    explanation_id BIGINT    NOT NULL,
    prompt         USMALLINT NOT NULL,
    answer         BOOLEAN,
    tokens_in      INTEGER,
    tokens_out     INTEGER,
    cost           DOUBLE,
    seconds        DOUBLE    NOT NULL
);
COMMENT ON TABLE base.explanation_answer IS 'One row per explanation and held-out prompt: what was answered from the explanation alone.';
INSERT INTO base.catalogue VALUES ('explanation_answer', 'run', ['explanation_id', 'prompt'], ['prompt'], false, 'explanation_id IN (SELECT explanation_id FROM base.explanation WHERE run_id = $id)');

CREATE VIEW head_prompts AS
SELECT h.run_id, h.layer, h.neuron, l.is_baseline, h.source_layer, h.source_head, h.prompt, h.is_active, h.is_held_out,
       o.activation, h.ablated_activation, h.probability, h.ablated_probability
FROM base.head_prompt h
JOIN base.next_token_neuron l USING (run_id, layer, neuron)
JOIN base.neuron_occurrence o USING (run_id, layer, neuron, prompt);
COMMENT ON VIEW head_prompts IS 'On which prompts does a relevant head fire the neuron, and what is lost without it? One row per relevant head of a neuron looked up and different prompt, the prompt alone read.';
COMMENT ON COLUMN head_prompts.is_baseline IS 'the neuron was drawn by chance';
COMMENT ON COLUMN head_prompts.is_active IS 'as active_heads says';
COMMENT ON COLUMN head_prompts.is_held_out IS 'explanations are scored on these prompts and made from the others: of active and of inactive ones as near to half each as whole groups of near-duplicates allow, by chance. Near-duplicates: one prompt is the end of the other, or they share the last half of the shorter one''s tokens';
COMMENT ON COLUMN head_prompts.activation IS 'of the neuron at the last token, after GELU';
COMMENT ON COLUMN head_prompts.ablated_activation IS 'the same with the head''s output (z W_O) at zero at every position; the attention bias, value biases folded in, stays';
COMMENT ON COLUMN head_prompts.probability IS 'of the neuron''s next-token after the last token';
COMMENT ON COLUMN head_prompts.ablated_probability IS 'the same with the head''s output at zero';

-- Student's t at 0.975: from 5 degrees of freedom on by Fisher's expansion (1926), within 2 parts in 10,000.
CREATE MACRO base.margin(error, freedom) AS error * CASE
    WHEN freedom BETWEEN 1 AND 4 THEN [12.706205, 4.302653, 3.182446, 2.776445][freedom::INTEGER]
    WHEN freedom > 4 THEN 1.959964 + 2.372271 / freedom + 2.822499 / freedom ** 2 + 2.55585 / freedom ** 3 + 1.589534 / freedom ** 4 END;
COMMENT ON MACRO base.margin IS 'Half the width of the 95 % interval of a mean with this standard error and so many degrees of freedom; NULL for none.';
CREATE MACRO base.margin_of(std, n) AS base.margin(std / sqrt(n), n - 1);
COMMENT ON MACRO base.margin_of IS 'The same of the mean of n values with this standard deviation (sample).';

CREATE VIEW ablations AS
WITH fall AS (
    SELECT *, activation - ablated_activation AS activation_fall, probability - ablated_probability AS probability_fall
    FROM head_prompts
), cumulated AS (
    SELECT *,
           abs(count(*) FILTER (is_active) OVER by_activation / nullif(count(*) FILTER (is_active) OVER of_head, 0)
               - count(*) FILTER (NOT is_active) OVER by_activation / nullif(count(*) FILTER (NOT is_active) OVER of_head, 0)) AS activation_apart,
           abs(count(*) FILTER (is_active) OVER by_probability / nullif(count(*) FILTER (is_active) OVER of_head, 0)
               - count(*) FILTER (NOT is_active) OVER by_probability / nullif(count(*) FILTER (NOT is_active) OVER of_head, 0)) AS probability_apart
    FROM fall
    WINDOW of_head AS (PARTITION BY run_id, layer, neuron, source_layer, source_head),
           by_activation AS (of_head ORDER BY activation_fall RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
           by_probability AS (of_head ORDER BY probability_fall RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
)
SELECT run_id, layer, neuron, is_baseline, source_layer, source_head,
       count(*) FILTER (is_active) AS active_prompts, count(*) FILTER (NOT is_active) AS inactive_prompts,
       avg(activation_fall) FILTER (is_active) AS activation_fall_active, avg(activation_fall) FILTER (NOT is_active) AS activation_fall_inactive,
       base.margin_of(stddev_samp(activation_fall) FILTER (is_active), active_prompts) AS activation_margin_active,
       base.margin_of(stddev_samp(activation_fall) FILTER (NOT is_active), inactive_prompts) AS activation_margin_inactive,
       max(activation_apart) AS activation_distance, any_value(p.activation_p) AS activation_p,
       avg(probability_fall) FILTER (is_active) AS probability_fall_active, avg(probability_fall) FILTER (NOT is_active) AS probability_fall_inactive,
       base.margin_of(stddev_samp(probability_fall) FILTER (is_active), active_prompts) AS probability_margin_active,
       base.margin_of(stddev_samp(probability_fall) FILTER (NOT is_active), inactive_prompts) AS probability_margin_inactive,
       max(probability_apart) AS probability_distance, any_value(p.probability_p) AS probability_p
FROM cumulated LEFT JOIN base.ablation p USING (run_id, layer, neuron, source_layer, source_head)
GROUP BY run_id, layer, neuron, is_baseline, source_layer, source_head;
COMMENT ON VIEW ablations IS 'Does the neuron need this head where the head is active, and only there? One row per relevant head: falls when its output is set to zero, on active and on inactive prompts (Neo, Cohen and Barez 2024).';
COMMENT ON COLUMN ablations.active_prompts IS 'prompts on which the head is active: n of every …_active';
COMMENT ON COLUMN ablations.inactive_prompts IS 'the others: n of every …_inactive';
COMMENT ON COLUMN ablations.activation_fall_active IS 'mean fall of the neuron''s activation (after GELU) over the active prompts';
COMMENT ON COLUMN ablations.activation_fall_inactive IS 'the same over the inactive ones';
COMMENT ON COLUMN ablations.activation_margin_active IS '± of the mean: half its 95 % interval (Student''s t over the prompts); NULL for a single prompt';
COMMENT ON COLUMN ablations.activation_margin_inactive IS 'the same over the inactive ones';
COMMENT ON COLUMN ablations.activation_distance IS 'Kolmogorov-Smirnov distance of the two samples of falls, 0 to 1; NULL where one is empty';
COMMENT ON COLUMN ablations.activation_p IS 'share of all ways to call so many of the prompts active that give at least this distance (exact permutation test): near 0 the distance is no chance';
COMMENT ON COLUMN ablations.probability_fall_active IS 'mean fall of the next-token''s probability over the active prompts';
COMMENT ON COLUMN ablations.probability_fall_inactive IS 'the same over the inactive ones';
COMMENT ON COLUMN ablations.probability_margin_active IS '± of the mean, as activation_margin_active';
COMMENT ON COLUMN ablations.probability_margin_inactive IS 'the same over the inactive ones';
COMMENT ON COLUMN ablations.probability_distance IS 'Kolmogorov-Smirnov distance of the two samples of falls, 0 to 1';
COMMENT ON COLUMN ablations.probability_p IS 'its permutation p-value, as activation_p';

CREATE VIEW explanations AS
SELECT e.explanation_id, e.run_id, e.layer, e.neuron, l.is_baseline, e.source_layer, e.source_head,
       e.method, e.language_model, e.prompt_version, e.text, e.why_none, e.made,
       a.answers, e.tokens_in + coalesce(a.tokens_in, 0) AS tokens_in, e.tokens_out + coalesce(a.tokens_out, 0) AS tokens_out,
       e.cost + coalesce(a.cost, 0) AS cost, e.seconds + coalesce(a.seconds, 0) AS seconds
FROM base.explanation e
JOIN base.next_token_neuron l USING (run_id, layer, neuron)
LEFT JOIN (SELECT explanation_id, count(*) AS answers, sum(tokens_in)::BIGINT AS tokens_in, sum(tokens_out)::BIGINT AS tokens_out,
                  sum(cost) AS cost, sum(seconds) AS seconds
           FROM base.explanation_answer GROUP BY explanation_id) a USING (explanation_id);
COMMENT ON VIEW explanations IS 'When is a relevant head active, in words? One row per relevant head of a neuron looked up, method, language model and version of its prompt.';
COMMENT ON COLUMN explanations.method IS 'decision_list: tokens and where they stand, tried in turn; language_model: its words';
COMMENT ON COLUMN explanations.why_none IS 'why there is no text; NULL where there is one';
COMMENT ON COLUMN explanations.answers IS 'held-out prompts classified so far';
COMMENT ON COLUMN explanations.tokens_in IS 'that the language model read, for the text and all answers; NULL where its endpoint did not say';
COMMENT ON COLUMN explanations.cost IS 'of all that, by the prices that were given; NULL where none were';
COMMENT ON COLUMN explanations.seconds IS 'that making and scoring it took, waiting included';

CREATE VIEW explanation_answers AS
SELECT e.explanation_id, e.run_id, e.layer, e.neuron, e.source_layer, e.source_head, a.prompt, h.is_active, a.answer
FROM base.explanation_answer a JOIN base.explanation e USING (explanation_id)
JOIN base.head_prompt h USING (run_id, layer, neuron, source_layer, source_head, prompt);
COMMENT ON VIEW explanation_answers IS 'Is a head active on a prompt that its explanation was not made from, and what does the explanation say? One row per explanation and held-out prompt.';
COMMENT ON COLUMN explanation_answers.is_active IS 'as in head_prompts';
COMMENT ON COLUMN explanation_answers.answer IS 'whether it is active, from the explanation alone; NULL where twice no answer could be read';

CREATE VIEW base.explanation_score AS
WITH counted AS (
    SELECT e.explanation_id, e.run_id, e.layer, e.neuron, e.is_baseline, e.source_layer, e.source_head, e.method, e.language_model, e.prompt_version,
           count(*) FILTER (a.answer AND a.is_active) AS true_active, count(*) FILTER (a.answer AND NOT a.is_active) AS false_active,
           count(*) FILTER (NOT a.answer AND NOT a.is_active) AS true_inactive, count(*) FILTER (NOT a.answer AND a.is_active) AS false_inactive,
           count(*) FILTER (a.answer IS NULL) AS unanswered
    FROM explanations e JOIN explanation_answers a USING (explanation_id)
    GROUP BY ALL
)
SELECT *, true_active + false_inactive AS active_prompts, true_inactive + false_active AS inactive_prompts,
       (true_active / nullif(active_prompts, 0) + true_inactive / nullif(inactive_prompts, 0)) / 2 AS balanced_accuracy,
       true_active / nullif(true_active + false_active, 0) AS precision,
       true_inactive / nullif(true_inactive + false_inactive, 0) AS npv,
       2 * true_active / nullif(2 * true_active + false_active + false_inactive, 0) AS f1
FROM counted;
COMMENT ON VIEW base.explanation_score IS 'One row per explanation that was scored: explanation_scores without the baseline.';

CREATE VIEW explanation_means AS
WITH figure AS (
    UNPIVOT (
        SELECT *, sqrt((true_active + 1) * (false_inactive + 1) / ((active_prompts + 2) ** 2 * active_prompts)
                       + (true_inactive + 1) * (false_active + 1) / ((inactive_prompts + 2) ** 2 * inactive_prompts)) / 2 AS noise
        FROM base.explanation_score WHERE balanced_accuracy IS NOT NULL
    ) ON balanced_accuracy, precision, npv, f1 INTO NAME figure VALUE value
), of_neuron AS (
    SELECT run_id, method, language_model, prompt_version, is_baseline, figure, layer, neuron, count(*) AS heads,
           sum(active_prompts) AS active_prompts, sum(inactive_prompts) AS inactive_prompts, sum(value) AS total, sum(noise) AS noise,
           sum(sum(value)) OVER alike / sum(count(*)) OVER alike AS mean
    FROM figure GROUP BY run_id, method, language_model, prompt_version, is_baseline, figure, layer, neuron
    WINDOW alike AS (PARTITION BY run_id, method, language_model, prompt_version, is_baseline, figure)
), grouped AS (
    SELECT run_id, method, language_model, prompt_version, is_baseline, figure, sum(heads)::BIGINT AS heads, count(*) AS neurons,
           sum(active_prompts)::BIGINT AS active_prompts, sum(inactive_prompts)::BIGINT AS inactive_prompts, any_value(mean) AS mean,
           sqrt(greatest(sum((total - heads * mean) ** 2) * neurons / nullif(neurons - 1, 0), sum(noise ** 2))) / sum(o.heads) AS spread
    FROM of_neuron o GROUP BY ALL
)
SELECT * EXCLUDE (spread), CASE WHEN neurons > 1 THEN spread END AS error,
       CASE WHEN neurons > 1 THEN greatest(mean - base.margin(error, neurons - 1), 0) END AS low, -- greatest(NULL, 0) is 0
       CASE WHEN neurons > 1 THEN least(mean + base.margin(error, neurons - 1), 1) END AS high
FROM grouped;
COMMENT ON VIEW explanation_means IS 'How well do explanations foretell on the whole, of next-token neurons and of those drawn by chance? One row per run, method, language model, version of its prompt, kind of neurons and figure.';
COMMENT ON COLUMN explanation_means.is_baseline IS 'of the neurons drawn by chance: the baseline';
COMMENT ON COLUMN explanation_means.figure IS 'of explanation_scores: balanced_accuracy, precision, npv, f1';
COMMENT ON COLUMN explanation_means.heads IS 'explanations that have the figure, and of which both classes were scored';
COMMENT ON COLUMN explanation_means.neurons IS 'whose heads those are: n of the interval, since the heads of a neuron share its prompts';
COMMENT ON COLUMN explanation_means.active_prompts IS 'held out and answered, of all those heads, on which the head is active';
COMMENT ON COLUMN explanation_means.inactive_prompts IS 'the others';
COMMENT ON COLUMN explanation_means.mean IS 'over the heads, 0 to 1';
COMMENT ON COLUMN explanation_means.error IS 'standard error of the mean over neurons drawn anew (clusters), at least what so few prompts alone make; NULL for a single neuron';
COMMENT ON COLUMN explanation_means.low IS 'lower end of its 95 % interval: Student''s t with neurons − 1 degrees of freedom, within 0 to 1';
COMMENT ON COLUMN explanation_means.high IS 'upper end';

CREATE VIEW explanation_scores AS
SELECT s.*, b.mean AS baseline, b.error AS baseline_error, b.low AS baseline_low, b.high AS baseline_high,
       b.heads AS baseline_heads, b.neurons AS baseline_neurons
FROM base.explanation_score s
LEFT JOIN explanation_means b
  ON b.is_baseline AND b.figure = 'balanced_accuracy' AND b.run_id = s.run_id AND b.method = s.method
 AND b.language_model IS NOT DISTINCT FROM s.language_model AND b.prompt_version IS NOT DISTINCT FROM s.prompt_version;
COMMENT ON VIEW explanation_scores IS 'Does the explanation foretell on which other prompts the head is active, and better than explanations of neurons drawn by chance? One row per explanation that was scored, from explanation_answers. Its 95 % intervals and whether it beats the baseline are drawn, in `Store.explanations` and `annotate explain`.';
COMMENT ON COLUMN explanation_scores.is_baseline IS 'the neuron was drawn by chance: these rows make the baseline';
COMMENT ON COLUMN explanation_scores.true_active IS 'held-out prompts on which the head is active and was said to be';
COMMENT ON COLUMN explanation_scores.unanswered IS 'held-out prompts without an answer that could be read: in no figure';
COMMENT ON COLUMN explanation_scores.active_prompts IS 'held out and answered, on which the head is active: n of the true positive rate';
COMMENT ON COLUMN explanation_scores.inactive_prompts IS 'the others: n of the true negative rate';
COMMENT ON COLUMN explanation_scores.balanced_accuracy IS '(TPR + TNR) / 2, 0 to 1: 0.5 is chance; NULL while a class has no answer';
COMMENT ON COLUMN explanation_scores.precision IS 'share of active ones among those said to be active; NULL where none was';
COMMENT ON COLUMN explanation_scores.npv IS 'share of inactive ones among those said to be inactive (negative predictive value); NULL where none was';
COMMENT ON COLUMN explanation_scores.f1 IS 'harmonic mean of precision and TPR, 0 to 1';
COMMENT ON COLUMN explanation_scores.baseline IS 'mean balanced accuracy over the run''s explanations of neurons drawn by chance, the same method, language model and prompt; NULL where none was scored';
COMMENT ON COLUMN explanation_scores.baseline_error IS 'its standard error, as in explanation_means; NULL for a single neuron';
COMMENT ON COLUMN explanation_scores.baseline_low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN explanation_scores.baseline_high IS 'upper end';
COMMENT ON COLUMN explanation_scores.baseline_heads IS 'explanations in that mean';
COMMENT ON COLUMN explanation_scores.baseline_neurons IS 'neurons drawn by chance in it';

CREATE VIEW published_scores AS
SELECT * FROM (VALUES ('Pythia-160m', false, 0.621::DOUBLE), ('GPT-2 small', false, 0.650), ('GPT-2 medium', false, 0.610),
                      ('GPT-2 large', false, 0.575), ('GPT-2 large', true, 0.558)) p(model, is_baseline, balanced_accuracy);
COMMENT ON VIEW published_scores IS 'What did others find? One row per model, and whether its neurons were drawn by chance: Neo, Cohen and Barez (2024), explanations by a language model.';
COMMENT ON COLUMN published_scores.balanced_accuracy IS 'of the paper''s explanations, as in explanation_scores; of how many heads is not known here';
