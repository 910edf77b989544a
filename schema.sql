-- The schema of the store: tables, views and macros, in the order in which the program computes their data.
--
-- Schema `base` has the stored tables; their layout may change from one schema version (base.version) to the next.
-- Schema `main` has the public views and macros; their names do not change.
-- A direct effect is a component's term in the centred logit of a token, with the final norm's scale frozen.
-- The column `toward_next` is the direct effect on the actual next token; it is NULL at the last position of a
-- window, which has no next token.
-- The column `toward_top` is the direct effect on the model's top prediction.
-- Layers, heads and neurons are numbered from 0, as in TransformerLens.

CREATE SCHEMA base;

CREATE TABLE base.version (version INTEGER NOT NULL);
COMMENT ON TABLE base.version IS 'One row: the version of this schema. `annotate upgrade` converts a store that has an older version.';
INSERT INTO base.version VALUES (15);

CREATE TYPE owner AS ENUM ('store', 'tokenizer', 'model', 'corpus', 'run');
CREATE TYPE norm AS ENUM ('LayerNorm', 'RMSNorm');
CREATE TYPE component AS ENUM ('embed', 'pos_embed', 'attn', 'mlp', 'final_bias');
CREATE TYPE component_detail AS ENUM ('attn_bias', 'mlp_bias', 'mlp_remainder', 'mlp_remainder_abs');
CREATE TYPE side AS ENUM ('high', 'low');
CREATE TYPE run_status AS ENUM ('running', 'finished');
CREATE TYPE unit_kind AS ENUM ('neuron', 'head', 'feature');
CREATE MACRO base.unit_name(kind, layer, unit) AS 'L' || layer || CASE kind WHEN 'neuron' THEN 'N' WHEN 'head' THEN 'H' WHEN 'feature' THEN 'F' END || unit;
CREATE TYPE unit_list AS ENUM ('high', 'low', 'window');
CREATE TYPE position_embedding AS ENUM ('rotary', 'learned', 'ALiBi');
CREATE TYPE reading AS ENUM ('pre', 'pre_linear'); -- a neuron's input before the activation function (hook_pre), and the factor of the result in a gated MLP (hook_pre_linear)
CREATE TYPE attention_behaviour AS ENUM ('self', 'previous', 'first', 'entropy', 'duplicate', 'induction');

-- The catalogue has one row per table of schema base. The row is inserted right after the table's CREATE statement.
-- The statements that have the same form for all tables (insert, delete, export, checks) are generated from these rows.
CREATE TABLE base.catalogue (
    name        VARCHAR   NOT NULL,
    owner       owner     NOT NULL,
    key         VARCHAR[] NOT NULL,
    ordered_by  VARCHAR[] NOT NULL,
    is_replaced BOOLEAN   NOT NULL,
    owned       VARCHAR
);
COMMENT ON TABLE base.catalogue IS 'One row per table of schema base. owner: the kind of object, such as a run, with which the table''s rows are deleted and exported. key: the columns that identify a row. ordered_by: the columns by which a commit sorts its new rows; empty if they are stored as they arrive. is_replaced: whether a commit first deletes all earlier rows of the owner. owned: an SQL condition that selects the rows of one owner, whose id is $id. It is NULL if the table has a column with the owner''s id, such as run_id; the condition is then run_id = $id.';
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
COMMENT ON TABLE base.checksum IS 'One row per owner (such as a run), table and shard: the number of rows and a checksum of their content. A shard is the part of a run that one transaction writes; shard is 0 for a table without shards. The checksum does not depend on the order of the rows (store/checksum.py). The same transaction writes the rows and their checksum.';
INSERT INTO base.catalogue VALUES ('checksum', 'store', ['owner', 'owner_id', 'name', 'shard'], [], false, NULL);

-- Constants of the storage layout. They are defined only here; store/layout.py reads them from this file.
CREATE MACRO base.positions_a_run() AS 1000000000000; -- maximum number of positions in a run; position_id = (run_id - 1) * positions_a_run + index of the position in the run
CREATE MACRO base.documents_a_corpus() AS 1000000000; -- maximum number of documents in a corpus; document_id = (corpus_id - 1) * documents_a_corpus + index of the document in the corpus
CREATE MACRO base.passages_a_document() AS 262144; -- maximum number of passages in a document; passage_id = document_id * passages_a_document + index of the passage in the document
CREATE MACRO base.passage_characters() AS 8192; -- number of characters from the start of a passage to the start of the next passage
CREATE MACRO base.passage_reach() AS 4096; -- number of characters of the next passage that a passage repeats at its end
CREATE MACRO base.neurons_a_part() AS 128; -- number of neurons in a row of base.neuron_code
CREATE MACRO base.code_of_kept() AS 31; -- the code in base.neuron_code that marks a neuron with a row in base.neuron
CREATE MACRO base.steps_a_logit() AS 8388608; -- number of steps per logit (2^23); terms of a logit are stored as whole numbers of these steps
CREATE MACRO base.steps_a_value() AS 67108864; -- number of steps per unit (2^26) for sums of activations and of direct effects
CREATE MACRO base.steps_a_square() AS 1048576; -- number of steps per unit (2^20) for sums of squares
CREATE MACRO base.steps_of_attention() AS 1073741824; -- number of steps per unit (2^30) for sums of attention probabilities and entropies

-- 1. Provenance and text: tokenizer, model, corpus, run -------------------------------------------

CREATE TABLE base.tokenizer (tokenizer_id INTEGER NOT NULL, sha256 VARCHAR NOT NULL, spells VARCHAR NOT NULL);
COMMENT ON TABLE base.tokenizer IS 'One row per tokenizer; models with the same tokenizer share its row. spells: which text the bytes of a document''s tokens give if they are joined. `text`: the unchanged document; `NFC`: the document after Unicode normalisation (NFC); `other`: the document after another change, such as lower-casing, an added space or dropped characters.';
INSERT INTO base.catalogue VALUES ('tokenizer', 'tokenizer', ['tokenizer_id'], [], false, NULL);

CREATE TABLE base.token (
    tokenizer_id INTEGER NOT NULL,
    token_id     INTEGER NOT NULL,
    token        VARCHAR NOT NULL,
    bytes        BLOB    NOT NULL,
    is_special   BOOLEAN NOT NULL
);
COMMENT ON TABLE base.token IS 'One row per token of a tokenizer''s vocabulary. is_special: whether the tokenizer marks the token as special (BOS, padding and similar).';
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
    activation        VARCHAR NOT NULL,
    n_kv_heads        INTEGER NOT NULL,
    is_gated          BOOLEAN NOT NULL,
    position_embedding position_embedding NOT NULL,
    logit_cap         FLOAT,
    has_post_norms    BOOLEAN NOT NULL
);
COMMENT ON TABLE base.model IS 'One row per model. A model is identified by its weights, configuration and tokenizer, and also by its revision if it came from the Hugging Face hub. config: the entries of config.json that affect stored values, as JSON; NULL for a model that was stored under schema version 8, which did not record them. model, revision: the name and revision under which the model was first stored. A model that was read from a folder has no revision. If a later command reads the same weights with a revision, the row gets the name and revision of that command.';
INSERT INTO base.catalogue VALUES ('model', 'model', ['model_id'], [], false, NULL);

CREATE TABLE base.layer_bias (
    model_id INTEGER  NOT NULL,
    layer    UTINYINT NOT NULL,
    token_id INTEGER  NOT NULL,
    attn     FLOAT    NOT NULL,
    mlp      FLOAT    NOT NULL
);
COMMENT ON TABLE base.layer_bias IS 'One row per model, layer and token: the inner products of the layer''s biases with u, the token''s column of W_U. attn is for b_O, which includes the folded value biases; mlp is for b_out. Divided by a position''s final scale σ, these values are the direct effects of the biases on the token. The values depend on the token but not on the position, so each is stored only once.';
INSERT INTO base.catalogue VALUES ('layer_bias', 'model', ['model_id', 'layer', 'token_id'], ['token_id', 'layer'], false, NULL);

CREATE TABLE base.neuron_direction (
    model_id INTEGER   NOT NULL,
    layer    UTINYINT  NOT NULL,
    neuron   UINTEGER  NOT NULL,
    W_out    FLOAT[]   NOT NULL
);
COMMENT ON TABLE base.neuron_direction IS 'One row per neuron of each model that has a run with --keep-neurons all (a run that stores every neuron at every position): the neuron''s row of W_out.';
INSERT INTO base.catalogue VALUES ('neuron_direction', 'model', ['model_id', 'layer', 'neuron'], ['layer', 'neuron'], false, NULL);

CREATE TABLE base.token_direction (
    model_id INTEGER NOT NULL,
    token_id INTEGER NOT NULL,
    u        FLOAT[] NOT NULL
);
COMMENT ON TABLE base.token_direction IS 'One row per token that is a next token or a top prediction in a run with --keep-neurons all (a run that stores every neuron at every position). u: the token''s column of W_U; in a model with LayerNorm, the mean of the column''s d_model entries is subtracted. The direct effect of a neuron on the token is its activation times the inner product of u with the neuron''s row of W_out, divided by the final scale σ.';
INSERT INTO base.catalogue VALUES ('token_direction', 'model', ['model_id', 'token_id'], ['token_id'], false, NULL);

CREATE TABLE base.corpus (
    corpus_id  INTEGER NOT NULL,
    sha256     VARCHAR NOT NULL,
    documents  BIGINT  NOT NULL,
    characters BIGINT  NOT NULL,
    sources    VARCHAR[] NOT NULL
);
COMMENT ON TABLE base.corpus IS 'One row per corpus. sha256: hash of the text and metadata of all documents, in their order.';
INSERT INTO base.catalogue VALUES ('corpus', 'corpus', ['corpus_id'], [], false, NULL);

CREATE TABLE base.document (
    corpus_id   INTEGER NOT NULL,
    document_id BIGINT  NOT NULL,
    source      VARCHAR NOT NULL,
    text        VARCHAR NOT NULL USING COMPRESSION uncompressed, -- with zstd compression, DuckDB's default, reading a context takes five times as long
    sha256      VARCHAR NOT NULL,
    metadata    JSON    NOT NULL
);
COMMENT ON TABLE base.document IS 'One row per document of a corpus, stored as soon as an ingest reaches the document. document_id is unique in the store.';
INSERT INTO base.catalogue VALUES ('document', 'corpus', ['document_id'], ['document_id'], false, NULL);
CREATE INDEX document_by_id ON base.document (document_id);

CREATE TABLE base.passage (
    passage_id BIGINT  NOT NULL,
    text       VARCHAR NOT NULL USING COMPRESSION uncompressed
);
COMMENT ON TABLE base.passage IS 'One row per 8,192 characters of a document. text: these characters and the 4,096 characters after them, so that the text around a position can be read without scanning the document from its start.';
INSERT INTO base.catalogue VALUES ('passage', 'corpus', ['passage_id'], ['passage_id'], false, 'base.document_of_passage(passage_id) IN (SELECT document_id FROM base.document WHERE corpus_id = $id)');
CREATE INDEX passage_by_id ON base.passage (passage_id);
CREATE MACRO base.passage_of(place) AS place // base.passage_characters();
CREATE MACRO base.passage_id(document_id, place) AS document_id * base.passages_a_document() + base.passage_of(place);
CREATE MACRO base.document_of_passage(passage_id) AS passage_id // base.passages_a_document();
CREATE MACRO base.excerpt(passage, first, characters) AS substring(passage, first % base.passage_characters() + 1, characters); -- `characters` must be at most base.passage_reach(), else the excerpt may be cut at the end of the passage
-- base.span returns the characters of a document from index `low` up to, but not including, index `high`.
-- Documents are stored in pieces called passages. If the range is in several passages, its parts are concatenated.
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
    finished   TIMESTAMPTZ,
    hf_difference FLOAT
);
COMMENT ON TABLE base.run IS 'One row per run. identity: sha256 hash of everything that determines the run, except for names (the model''s name and revision, and the location of the corpus).';
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
COMMENT ON TABLE base.shard IS 'One row per committed shard (the positions that one transaction writes): the number of rows that the shard added to each table, and where in the corpus the next shard starts. The same transaction writes this row and the shard''s other rows.';
INSERT INTO base.catalogue VALUES ('shard', 'run', ['run_id', 'shard'], [], false, NULL);

-- 2. Terms of a prediction: rows per position -----------------------------------------------------

-- Terms of the logit are stored as integers, in steps of 2^-23 logits, in the columns embed_…, pos_embed_…, bias_…,
-- attn_…, mlp_… and mlp_remainder_… (except mlp_remainder_abs_…), and in toward_next and toward_top of base.head.
-- The spacing of float32 numbers at 1 is 2^-23, so every float32 logit of magnitude 1 or more is a multiple of the step
-- and is read back exactly. DuckDB compresses such integers to 21 to 25 bits each; it compresses floats to 30 bits.
CREATE MACRO base.units(logits) AS (logits::FLOAT * base.steps_a_logit()::FLOAT)::BIGINT;
CREATE MACRO base.logits(units) AS units::FLOAT * (1 / base.steps_a_logit())::FLOAT;

-- A float32 value that is stored as a DECIMAL has two rounding errors. The first arises when it is rounded to the
-- DECIMAL, and is at most half a step of the DECIMAL. The second arises when the DECIMAL is read as float32, and is at
-- most the spacing of float32 numbers near the value. This spacing is 0.001 or more for values from about 2^13 on.
-- base.float_error(value) is an upper bound of the second error.
CREATE MACRO base.float_error(value) AS abs(value) * 2.384185791015625e-07; -- the factor is 2^-22
CREATE MACRO closure_bound(terms, size) AS greatest(1e-4, (terms + 128 * size) * 5.9604644775390625e-08); -- the last factor is 2^-24
COMMENT ON MACRO closure_bound IS 'What is the largest closure error that rounding alone explains? In logits, it is max(1e-4, (terms + 128 · size) · 2^-24). A closure error is the sum of a position''s stored terms minus the logit. terms: the number of terms in the sum, each rounded to a multiple of 2^-23. size: the sum of the absolute terms over embedding, heads, neurons and biases, in logits. Errors of float32 arithmetic grow in proportion to size. The factor 128 is generous: in all models tried, a factor of 38 was enough.';

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
COMMENT ON TABLE base.position IS 'One row per stored position of a run, sorted by position_id.';
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
COMMENT ON TABLE base.contribution IS 'One row per position and layer, sorted by position_id. attn_…, mlp_…: the direct effects of the layer''s attention and MLP. mlp_remainder_…: the direct effect of the MLP minus the effects of its stored neurons and of its bias. mlp_remainder_abs_…: the sum of the absolute effects of the neurons that are not stored. …_bound: upper bounds of the absolute activation and effects of a neuron without a row in base.neuron.';
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
COMMENT ON TABLE base.head IS 'One row per position, layer and head. Within a shard the rows are sorted by layer, head and position_id (position_id descends for every second head, which compresses better). This order serves both queries by head and queries by position, so the rows are stored only once. source_offset: position_id minus the position_id of the source that the head attends to most.';
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
COMMENT ON TABLE base.head_source IS 'One row per position, head and source (a position that the head attends to), sorted by position_id. Each position has rows only for the pairs of head and source with the largest direct effects (--keep-sources). A run that stores all sources has the effects unrounded, in unrounded_next and unrounded_top instead of toward_next and toward_top. Then the effects of a head''s sources sum to the head''s direct effect.';
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
COMMENT ON TABLE base.neuron IS 'One row per position, layer and neuron, for the strongest neurons of each position and layer (--keep-neurons). Within a shard the rows are sorted by layer, then by neuron (the neuron with the most rows first), then by position_id (which descends for every second neuron, because this compresses better). This order serves both queries by neuron and queries by position, so the rows are stored only once.';
INSERT INTO base.catalogue VALUES ('neuron', 'run', ['position_id', 'layer', 'neuron'], [], false, NULL);

CREATE TABLE base.neuron_code (
    run_id      INTEGER    NOT NULL,
    position_id BIGINT     NOT NULL,
    layer       UTINYINT   NOT NULL,
    part        USMALLINT  NOT NULL,
    low         DECIMAL(9, 3) NOT NULL,
    step        DECIMAL(9, 4) NOT NULL,
    codes       UTINYINT[] NOT NULL,
    mlp_scale   FLOAT
);
COMMENT ON TABLE base.neuron_code IS 'One row per position, layer and group of 128 neurons, for runs with --keep-neurons all. The rows are stored in the order in which they were computed, which is roughly the order of position_id. codes: one integer per neuron of the group; the neuron''s activation is low + step · code, with an error of at most step / 2. Code 31 means that the neuron has a row in base.neuron instead. mlp_scale: the scale of the norm after the MLP, by which the effects are divided; NULL in a model without this norm.';
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
COMMENT ON TABLE base.lens IS 'One row per position and layer of a run with --lens: the prediction of the logit lens after the layer.';
INSERT INTO base.catalogue VALUES ('lens', 'run', ['position_id', 'layer'], [], false, NULL);

-- 3. Neurons and heads over a run -----------------------------------------------------------------

CREATE TABLE base.top_candidate (
    run_id      INTEGER   NOT NULL,
    kind        unit_kind NOT NULL,
    list        unit_list NOT NULL,
    layer       UTINYINT  NOT NULL,
    unit        UINTEGER  NOT NULL,
    position_id BIGINT    NOT NULL,
    value       FLOAT     NOT NULL
);
COMMENT ON TABLE base.top_candidate IS 'One row per value that may enter a top-k list (the largest or smallest values of a neuron or head) of an unfinished run. Each shard adds such candidates; finishing the run replaces them with the rows of base.top_entry.';
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
COMMENT ON TABLE base.top_entry IS 'One row per entry of the top-k lists (the largest or smallest values of a neuron or head) of a finished run, sorted by list and rank. The columns kind, list, layer and unit together identify one list.';
INSERT INTO base.catalogue VALUES ('top_entry', 'run', ['run_id', 'kind', 'list', 'layer', 'unit', 'rank'], [], false, NULL);

CREATE TABLE base.top_source (
    run_id        INTEGER   NOT NULL,
    layer         UTINYINT  NOT NULL,
    head          UTINYINT  NOT NULL,
    position_id   BIGINT    NOT NULL,
    source_offset USMALLINT NOT NULL,
    attention     DECIMAL(5, 4) NOT NULL
);
COMMENT ON TABLE base.top_source IS 'One row per head and position in the head''s top-k lists, for finished runs: the source that the head attends to most at this position. The row is copied from base.head, because base.head is too large to be searched for so few rows.';
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
COMMENT ON TABLE base.head_offset IS 'One row per head and distance, for finished runs. The distance (source_offset) is the position_id minus the position_id of the source that the head attends to most. The other columns are exact sums over all rows of base.head with this distance, without the positions of base.left_out (special tokens). With these sums, a query by distance need not scan base.head. effect: the sum of the direct effects on the next token, in steps of 2^-23 logits.';
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
COMMENT ON TABLE base.unit_stat IS 'One row per neuron or head of a run: sums over all positions committed so far. Each commit of a shard rewrites these rows. The sums are whole numbers of small steps, so they do not depend on the order of addition. A step is 2^-26 for values and effects (base.values_of) and 2^-20 for squares (base.squares_of). Each value is rounded to a step before it is added.';
INSERT INTO base.catalogue VALUES ('unit_stat', 'run', ['run_id', 'kind', 'layer', 'unit'], ['kind', 'layer', 'unit'], true, NULL);

CREATE TABLE base.attention_stat (
    run_id    INTEGER  NOT NULL,
    layer     UTINYINT NOT NULL,
    head      UTINYINT NOT NULL,
    behaviour attention_behaviour NOT NULL,
    total     HUGEINT  NOT NULL,
    count     BIGINT   NOT NULL
);
COMMENT ON TABLE base.attention_stat IS 'One row per head and attention behaviour, such as attention to the previous position. total: the sum of the attention probability over the positions where the behaviour is measured, in steps of 2^-30 (base.attention_of); for the behaviour `entropy`, the sum of the entropy of the attention. count: the number of these positions. Each commit of a shard rewrites these rows.';
INSERT INTO base.catalogue VALUES ('attention_stat', 'run', ['run_id', 'layer', 'head', 'behaviour'], [], true, NULL);

CREATE TABLE base.sample_position (run_id INTEGER NOT NULL, position_id BIGINT NOT NULL);
COMMENT ON TABLE base.sample_position IS 'One row per position of a run''s random sample, stored as soon as the ingest reaches the position.';
INSERT INTO base.catalogue VALUES ('sample_position', 'run', ['run_id', 'position_id'], [], false, NULL);

CREATE TABLE base.sample_row (
    run_id      INTEGER  NOT NULL,
    kind        unit_kind NOT NULL,
    layer       UTINYINT NOT NULL,
    position_id BIGINT   NOT NULL,
    values      DECIMAL(9, 3)[] NOT NULL
);
COMMENT ON TABLE base.sample_row IS 'One row per sampled position, layer and kind of unit (neuron or head) of an unfinished run. values: the values of all neurons or heads of the layer. Finishing the run converts these rows into the rows of base.sample_unit.';
INSERT INTO base.catalogue VALUES ('sample_row', 'run', ['run_id', 'kind', 'layer', 'position_id'], [], false, NULL);

CREATE TABLE base.sample_unit (
    run_id  INTEGER   NOT NULL,
    kind    unit_kind NOT NULL,
    layer   UTINYINT  NOT NULL,
    unit    UINTEGER  NOT NULL,
    values  DECIMAL(9, 3)[] NOT NULL
);
COMMENT ON TABLE base.sample_unit IS 'One row per neuron or head of a finished run. values: the neuron''s activations, or the head''s direct effects on the next token, at the sampled positions in the order of position_id.';
INSERT INTO base.catalogue VALUES ('sample_unit', 'run', ['run_id', 'kind', 'layer', 'unit'], ['kind', 'layer', 'unit'], false, NULL);

-- 4. Provenance and text: public views ------------------------------------------------------------

CREATE VIEW runs AS
SELECT r.run_id, r.model_id, r.corpus_id, m.model, m.revision, m.step,
       array_to_string(c.sources, ' ') AS corpus, r.settings, r.libraries,
       m.weights_sha256, t.sha256 AS tokenizer_sha256, c.sha256 AS corpus_sha256, r.processing,
       r.started, r.finished, r.status,
       coalesce(s.tokens, 0)::BIGINT AS tokens,
       CASE WHEN (r.settings->>'special_in_lists')::BOOLEAN THEN 0 ELSE coalesce(s.special, 0) END::BIGINT AS special_excluded,
       s.worst_closure, s.worst_closure_ratio, r.hf_difference
FROM base.run r
JOIN base.model m USING (model_id)
JOIN base.tokenizer t USING (tokenizer_id)
JOIN base.corpus c USING (corpus_id)
LEFT JOIN (SELECT run_id, sum(positions) AS tokens, sum(special_positions) AS special, max(worst_closure) AS worst_closure,
                  max(worst_closure_ratio) AS worst_closure_ratio
           FROM base.shard GROUP BY run_id) s USING (run_id);
COMMENT ON VIEW runs IS 'Which runs does this store hold, and how was each run made? One row per run, which is one ingest of one corpus with one model revision and one set of settings.';
COMMENT ON COLUMN runs.settings IS 'options of the ingest that affect stored values, as JSON';
COMMENT ON COLUMN runs.processing IS 'weight processing by TransformerLens, as JSON: whether norms are folded, whether W_U and the weights that write to the residual stream are centred, and whether value biases are folded into b_O';
COMMENT ON COLUMN runs.tokens IS 'number of positions committed so far';
COMMENT ON COLUMN runs.special_excluded IS 'number of positions that top-k lists, statistics and the random sample exclude because their token is special; 0 with --special-in-lists';
COMMENT ON COLUMN runs.hf_difference IS 'largest difference, in nats, between two log-probabilities of the same token: one from the sum of all components, the other from Hugging Face''s implementation of the model. They are compared when the model is loaded, for the 10 likeliest tokens at each position of a text of 32 random tokens. NULL for a run that was made under schema version 12 or earlier';
COMMENT ON COLUMN runs.worst_closure IS 'largest closure error of the run, in logits. A position has two closure errors, abs(sum of terms − logit) for the next token and for the top prediction';
COMMENT ON COLUMN runs.worst_closure_ratio IS 'largest ratio of closure error to closure_bound over the positions of the run. The closure error is abs(sum of terms − logit), and closure_bound is the largest closure error that rounding explains. An ingest refuses a model with a ratio above 1';

CREATE VIEW models AS
SELECT e.model_id, e.model, e.revision, e.step, e.n_layers, e.n_heads, e.d_model, e.d_head, e.d_mlp, e.d_vocab, e.n_ctx, e.parallel_residual, e.family, e.norm, e.activation,
       e.n_kv_heads, e.is_gated, e.position_embedding, e.logit_cap, e.has_post_norms
FROM base.model e;
COMMENT ON VIEW models IS 'What are the dimensions and the architecture of each model? One row per model revision.';
COMMENT ON COLUMN models.step IS 'training step of the checkpoint; NULL if unknown';
COMMENT ON COLUMN models.family IS 'model family, such as gpt_neox, from the entry model_type of config.json';
COMMENT ON COLUMN models.norm IS 'kind of normalisation before each block and before the unembedding';
COMMENT ON COLUMN models.activation IS 'activation function of the MLP, as in config.json but in capital letters';
COMMENT ON COLUMN models.n_kv_heads IS 'number of key-value heads; the keys and values of each one are shared by n_heads / n_kv_heads query heads';
COMMENT ON COLUMN models.is_gated IS 'whether the MLP is gated. The activation of a neuron is act(x W_gate) · (x W_in) in a gated MLP and act(x W_in) in any other, where act is the activation function';
COMMENT ON COLUMN models.position_embedding IS 'how the model reads the order of tokens. rotary: queries and keys are rotated; learned: the vector W_pos is added to the embedding; ALiBi: attention scores decrease with the distance';
COMMENT ON COLUMN models.logit_cap IS 'soft-cap c of the logits: probabilities are the softmax of c · tanh(logit / c), and the decomposed logit is the one before the cap; NULL for a model without a cap';
COMMENT ON COLUMN models.has_post_norms IS 'whether the outputs of attention and of the MLP pass through norms (post-norms) before they are added to the residual stream; the scale of such a norm is frozen at each position, like the final scale σ';
COMMENT ON COLUMN models.d_vocab IS 'size of the vocabulary dimension of W_U, padding ids included';

CREATE VIEW vocabulary AS
SELECT m.model_id, t.token_id, t.token, t.bytes, t.is_special FROM base.token t JOIN base.model m USING (tokenizer_id);
COMMENT ON VIEW vocabulary IS 'What text does a token id stand for? One row per token of a model''s vocabulary.';
COMMENT ON COLUMN vocabulary.token IS 'readable text of the token, after the tokenizer''s normalisation (such as NFC or lower case); bytes that are not valid UTF-8 on their own are written as \xNN';
COMMENT ON COLUMN vocabulary.bytes IS 'bytes that the token stands for';
COMMENT ON COLUMN vocabulary.is_special IS 'whether the tokenizer marks the token as special (BOS, padding and similar)';

CREATE VIEW documents AS
SELECT e.corpus_id, e.document_id, e.source, e.text, e.sha256, e.metadata FROM base.document e;
COMMENT ON VIEW documents IS 'Which texts did the runs read? One row per document of a corpus.';
COMMENT ON COLUMN documents.source IS 'file from which the document came, with the line or row in that file';
COMMENT ON COLUMN documents.metadata IS 'other columns or keys of the document''s source, besides the text, as JSON';

-- base.capped returns a logit after the model's soft-cap. Arguments: the centred logit, the mean logit over the
-- vocabulary, and the cap (models.logit_cap); without a cap, the centred logit is returned.
CREATE MACRO base.capped(logit, logit_offset, cap) AS CASE WHEN cap IS NULL THEN logit ELSE cap * tanh((logit + logit_offset) / cap) END;

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
COMMENT ON VIEW positions IS 'Which token is at each position, which token comes next, and what does the model predict? One row per position, which is one token in one window of a run.';
COMMENT ON COLUMN positions.position_id IS 'id of the position, unique in the store; the ids ascend by document, window and position in the window';
COMMENT ON COLUMN positions.window_id IS 'id of the window that the model read, counted from 0 through the whole corpus; equal in all runs that cut the corpus into the same windows';
COMMENT ON COLUMN positions.position IS 'index of the token in its window, from 0; a BOS is counted too';
COMMENT ON COLUMN positions.token IS 'readable text of the token, after the tokenizer''s normalisation (such as NFC or lower case); the original spelling is in documents.text, from char_start to char_end';
COMMENT ON COLUMN positions.char_start IS 'index of the token''s first character in documents.text, from 0; NULL for a BOS that is not in the text';
COMMENT ON COLUMN positions.char_end IS 'index of the character after the token''s last character in documents.text. If several tokens encode one character together, each of them has the span of this character. A character that the tokenizer drops belongs to the token before it, so the spans cover the whole document';
COMMENT ON COLUMN positions.next_token_id IS 'token id of the actual next token in the window; NULL at the end of the window';
COMMENT ON COLUMN positions.top_token_id IS 'token id of the model''s top prediction among real tokens (padding ids excluded)';
COMMENT ON COLUMN positions.next_logit IS 'centred logit of the next token: its logit minus the mean logit over the vocabulary, both before a soft-cap';
COMMENT ON COLUMN positions.top_logit IS 'centred logit of the top prediction: its logit minus the mean logit over the vocabulary, both before a soft-cap';
COMMENT ON COLUMN positions.logit_offset IS 'mean logit over the vocabulary, in logits; add it to next_logit or top_logit to get the logit of Hugging Face''s implementation, before a soft-cap if the model has one (models.logit_cap)';
COMMENT ON COLUMN positions.next_logprob IS 'log-probability of the next token, in nats, after the soft-cap if the model has one (models.logit_cap); its negative is the loss';
COMMENT ON COLUMN positions.top_logprob IS 'log-probability of the top prediction, in nats, after the soft-cap if the model has one (models.logit_cap)';
COMMENT ON COLUMN positions.next_rank IS 'rank of the next token in the predicted distribution, from 1 (most likely), among real tokens (padding ids excluded)';
COMMENT ON COLUMN positions.entropy IS 'entropy of the predicted distribution, in nats';
COMMENT ON COLUMN positions.final_scale IS 'scale σ of the final norm at this position; every direct effect is computed with σ frozen at this value';
COMMENT ON COLUMN positions.is_first IS 'whether the position is the first of its window. Many heads attend to the first position whatever its token is (an attention sink), so top-k lists exclude it unless the run has --first-in-lists';
COMMENT ON COLUMN positions.is_special IS 'whether the token is special (BOS, padding and similar). Special tokens are added by --bos or, with --parse-special, read from the text. Top-k lists, statistics and the random sample exclude them unless the run has --special-in-lists';
COMMENT ON COLUMN positions.context_cut IS 'whether the document begins before the window, so that the model did not read the beginning of the document';
COMMENT ON COLUMN positions.closure_next IS 'closure error for the next token, in logits: the sum of the stored terms minus the centred logit';
COMMENT ON COLUMN positions.closure_top IS 'closure error for the top prediction, in logits: the sum of the stored terms minus the centred logit';
COMMENT ON COLUMN positions.source_bound IS 'upper bound, in logits, for the pairs of head and source without a row in head_sources at this position. The direct effect of such a pair on the next token, and that on the top prediction, has at most this absolute value';

CREATE VIEW base.left_out AS
SELECT p.run_id, p.position_id
FROM base.position p
JOIN base.run r USING (run_id)
JOIN base.model m USING (model_id)
JOIN base.token t ON t.tokenizer_id = m.tokenizer_id AND t.token_id = p.token_id
WHERE t.is_special AND NOT coalesce((r.settings->>'special_in_lists')::BOOLEAN, false);
COMMENT ON VIEW base.left_out IS 'One row per position that the top-k lists, statistics and random sample of its run exclude because its token is special. A run with --special-in-lists excludes no position.';

-- 5. Terms of a prediction: public views ----------------------------------------------------------

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
COMMENT ON VIEW contributions IS 'What is the direct effect of each component on this prediction? One row per position and component. The direct effects of a position sum to the centred logit.';
COMMENT ON COLUMN contributions.layer IS 'layer of the component; NULL for embed, pos_embed and final_bias';
COMMENT ON COLUMN contributions.component IS 'name of the component. embed: the token embedding; pos_embed: the position embedding, in models that have one; attn: the heads and attention bias of a layer; mlp: the neurons and output bias of a layer; final_bias: b_U';
COMMENT ON COLUMN contributions.toward_next IS 'direct effect of the component on the next token, in logits, rounded to a multiple of 2^-23 (about 1.2e-7)';
COMMENT ON COLUMN contributions.toward_top IS 'direct effect of the component on the top prediction, in logits, rounded to a multiple of 2^-23 (about 1.2e-7)';

CREATE VIEW base.bias_effect AS
SELECT p.run_id, p.position_id, t.layer, n.attn / p.final_scale AS attn_next, t.attn / p.final_scale AS attn_top,
       n.mlp / p.final_scale AS mlp_next, t.mlp / p.final_scale AS mlp_top
FROM base.position p
JOIN base.run r USING (run_id)
JOIN base.layer_bias t ON t.model_id = r.model_id AND t.token_id = p.top_token_id
LEFT JOIN base.layer_bias n ON n.model_id = r.model_id AND n.token_id = p.next_token_id AND n.layer = t.layer;
COMMENT ON VIEW base.bias_effect IS 'Direct effects of each layer''s attention bias and MLP bias. One row per position and layer.';

CREATE VIEW contribution_details AS
SELECT e.run_id, e.position_id, e.layer, 'attn_bias'::component_detail AS component,
       e.attn_next AS toward_next, e.attn_top AS toward_top FROM base.bias_effect e
UNION ALL
SELECT e.run_id, e.position_id, e.layer, 'mlp_bias'::component_detail, e.mlp_next, e.mlp_top FROM base.bias_effect e
UNION ALL
SELECT e.run_id, e.position_id, e.layer, 'mlp_remainder'::component_detail, base.logits(e.mlp_remainder_next), base.logits(e.mlp_remainder_top) FROM base.contribution e
UNION ALL
SELECT e.run_id, e.position_id, e.layer, 'mlp_remainder_abs'::component_detail, e.mlp_remainder_abs_next::FLOAT, e.mlp_remainder_abs_top::FLOAT FROM base.contribution e;
COMMENT ON VIEW contribution_details IS 'Which terms does a layer have besides its heads and its stored neurons? One row per position, layer and term. The terms add up: attn = Σ heads + attn_bias; mlp = Σ stored neurons + mlp_remainder + mlp_bias.';
COMMENT ON COLUMN contribution_details.component IS 'name of the term. attn_bias: b_O with the folded value biases; mlp_bias: b_out; mlp_remainder: the sum of the effects of the neurons that are not stored, and of the rounding errors of the stored neurons; mlp_remainder_abs: the sum of the absolute effects of the neurons that are not stored, rounded to 0.0001';
COMMENT ON COLUMN contribution_details.toward_next IS 'direct effect of the term on the next token, in logits';
COMMENT ON COLUMN contribution_details.toward_top IS 'direct effect of the term on the top prediction, in logits';

CREATE VIEW heads AS
SELECT e.run_id, e.position_id, e.layer, e.head, base.logits(e.toward_next) AS toward_next, base.logits(e.toward_top) AS toward_top,
       e.position_id - e.source_offset AS top_source_position_id, e.attention::FLOAT AS top_source_attention,
       e.output_norm::FLOAT AS output_norm
FROM base.head e;
COMMENT ON VIEW heads IS 'What is the direct effect of each head at a position? One row per position, layer and head. All heads have rows.';
COMMENT ON COLUMN heads.toward_next IS 'direct effect of the head on the next token, in logits, rounded to a multiple of 2^-23 (about 1.2e-7)';
COMMENT ON COLUMN heads.toward_top IS 'direct effect of the head on the top prediction, in logits, rounded to a multiple of 2^-23 (about 1.2e-7)';
COMMENT ON COLUMN heads.top_source_position_id IS 'position_id of the source that the head attends to most';
COMMENT ON COLUMN heads.top_source_attention IS 'attention probability of the source that the head attends to most, rounded to 0.0001';
COMMENT ON COLUMN heads.output_norm IS 'norm of the vector that the head adds to the residual stream, ‖z W_O‖, rounded to 0.001';

CREATE VIEW head_sources AS
SELECT e.run_id, e.position_id, e.layer, e.head, e.position_id - e.source_offset AS source_position_id,
       e.attention::FLOAT AS attention, coalesce(e.toward_next::FLOAT, e.unrounded_next) AS toward_next,
       coalesce(e.toward_top::FLOAT, e.unrounded_top) AS toward_top
FROM base.head_source e;
COMMENT ON VIEW head_sources IS 'From which source positions do the heads read? One row per position, head and source; a position has rows only for the pairs of head and source with the largest direct effects. positions.source_bound is an upper bound for the absolute effects of the other pairs.';
COMMENT ON COLUMN head_sources.attention IS 'attention probability of the source, rounded to 0.0001';
COMMENT ON COLUMN head_sources.toward_next IS 'part of the head''s direct effect on the next token that comes from this source, in logits, rounded to 0.0001 unless the run stores all sources';
COMMENT ON COLUMN head_sources.toward_top IS 'part of the head''s direct effect on the top prediction that comes from this source, in logits, rounded to 0.0001 unless the run stores all sources';

CREATE VIEW base.coded_neuron AS
SELECT c.run_id, c.position_id, c.layer, d.neuron,
       c.low::FLOAT + c.step::FLOAT * c.codes[d.neuron % base.neurons_a_part() + 1] AS activation,
       (activation * list_inner_product(d.W_out, n.u) / (p.final_scale * coalesce(c.mlp_scale, 1)))::FLOAT AS toward_next,
       (activation * list_inner_product(d.W_out, t.u) / (p.final_scale * coalesce(c.mlp_scale, 1)))::FLOAT AS toward_top, c.step::FLOAT / 2 AS activation_error
FROM base.neuron_code c
JOIN base.position p USING (run_id, position_id)
JOIN base.run r USING (run_id)
JOIN base.neuron_direction d ON d.model_id = r.model_id AND d.layer = c.layer AND d.neuron // base.neurons_a_part() = c.part
JOIN base.token_direction t ON t.model_id = r.model_id AND t.token_id = p.top_token_id
LEFT JOIN base.token_direction n ON n.model_id = r.model_id AND n.token_id = p.next_token_id
WHERE c.codes[d.neuron % base.neurons_a_part() + 1] < base.code_of_kept();
COMMENT ON VIEW base.coded_neuron IS 'One row per position, layer and neuron whose activation is stored in base.neuron_code, rounded to a code (only in runs with --keep-neurons all). The other neurons have rows in base.neuron.';

CREATE VIEW base.kept_neuron AS
SELECT e.run_id, e.position_id, e.layer, e.neuron, e.activation::FLOAT AS activation, e.toward_next::FLOAT AS toward_next,
       e.toward_top::FLOAT AS toward_top, 0.0005::FLOAT AS activation_error
FROM base.neuron e;
COMMENT ON VIEW base.kept_neuron IS 'The strongest neurons of each position and layer: the rows of base.neuron, with values as FLOAT. In a run with --keep-neurons all, base.coded_neuron has the other neurons.';

CREATE VIEW neurons AS
FROM base.kept_neuron
UNION ALL
FROM base.coded_neuron;
COMMENT ON VIEW neurons IS 'Which neurons were active or had an effect at a position? One row per position, layer and stored neuron. For the neurons that are not stored, neuron_bounds has upper bounds of the activation and of the effects.';
COMMENT ON COLUMN neurons.activation IS 'activation after the activation function (hook_post), rounded to 0.001. With --keep-neurons all, this holds only for the 8 strongest neurons of a position and layer; the other activations are rounded to one of 31 levels between the min and the max of a group of 128 neurons';
COMMENT ON COLUMN neurons.activation_error IS 'upper bound of the absolute rounding error of the stored activation. With --keep-neurons all, the effects of a neuron that is not among the 8 strongest are computed from the rounded activation, so they have the same relative error';
COMMENT ON COLUMN neurons.toward_next IS 'direct effect of the neuron on the next token, in logits, rounded to 0.001';
COMMENT ON COLUMN neurons.toward_top IS 'direct effect of the neuron on the top prediction, in logits, rounded to 0.001';

CREATE VIEW neuron_bounds AS
SELECT e.run_id, e.position_id, e.layer, e.activation_bound::FLOAT AS activation_bound, e.next_bound::FLOAT AS next_bound,
       e.top_bound::FLOAT AS top_bound
FROM base.contribution e;
COMMENT ON VIEW neuron_bounds IS 'How large can the activation and the effects of a neuron without a row in `neurons` be? One row per position and layer: upper bounds of the absolute values.';
COMMENT ON COLUMN neuron_bounds.activation_bound IS '(k + 1)-th largest abs(activation) among the layer''s neurons, where k is --keep-neurons; 0 if all neurons are stored';
COMMENT ON COLUMN neuron_bounds.next_bound IS '(k + 1)-th largest abs(toward_next) among the layer''s neurons, in logits, where k is --keep-neurons; 0 if all neurons are stored';
COMMENT ON COLUMN neuron_bounds.top_bound IS '(k + 1)-th largest abs(toward_top) among the layer''s neurons, in logits, where k is --keep-neurons; 0 if all neurons are stored';

CREATE VIEW lens AS
SELECT l.run_id, l.position_id, l.layer, l.top_token_id, t.token AS top_token, l.top_logprob, l.next_logprob, l.next_rank
FROM base.lens l
JOIN base.run r USING (run_id)
JOIN base.model m USING (model_id)
LEFT JOIN base.token t ON t.tokenizer_id = m.tokenizer_id AND t.token_id = l.top_token_id;
COMMENT ON VIEW lens IS 'At which layer does the model reach its prediction? One row per position and layer of a run with --lens. The logit lens applies the final norm and the unembedding to the residual stream after block `layer`; the norm uses the scale σ of that residual stream.';
COMMENT ON COLUMN lens.layer IS 'layer of the block after which the residual stream is unembedded';
COMMENT ON COLUMN lens.top_logprob IS 'log-probability of the top prediction of the logit lens, in nats';
COMMENT ON COLUMN lens.next_logprob IS 'log-probability of the next token in the prediction of the logit lens, in nats';
COMMENT ON COLUMN lens.next_rank IS 'rank of the next token in the prediction of the logit lens, from 1, among real tokens (padding ids excluded)';

-- 6. Neurons and heads over a run: public views ---------------------------------------------------

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
COMMENT ON VIEW base.ranked IS 'One row per entry of the top-k lists of every run. Entries of an unfinished run are ranked among the positions committed so far.';

CREATE VIEW neuron_top AS
SELECT e.run_id, e.layer, e.unit AS neuron,
       e.list::VARCHAR::side AS side, e.rank, e.position_id, e.value AS activation
FROM base.ranked e WHERE e.kind = 'neuron' AND e.list IN ('high', 'low');
COMMENT ON VIEW neuron_top IS 'At which positions is this neuron''s activation largest, and at which is it smallest? One row per neuron, side and rank, exact over the whole run. First positions of windows are excluded unless the run has --first-in-lists, and special tokens unless it has --special-in-lists. If two values are equal, the earlier position comes first.';
COMMENT ON COLUMN neuron_top.side IS 'side of the list. high: the largest activations, the largest first; low: the smallest activations, the smallest first';
COMMENT ON COLUMN neuron_top.rank IS 'rank of the position in the list of its neuron and side, from 1';
COMMENT ON COLUMN neuron_top.activation IS 'activation after the activation function (hook_post), not rounded';

CREATE VIEW neuron_windows AS
SELECT w.run_id, w.layer, w.unit AS neuron, w.rank, p.window_id, w.position_id, w.value AS activation
FROM base.ranked w JOIN base.position p USING (run_id, position_id)
WHERE w.kind = 'neuron' AND w.list = 'window';
COMMENT ON VIEW neuron_windows IS 'In which windows is this neuron''s activation largest? One row per neuron and rank, exact over the whole run. Each window counts once, with its maximum activation, which Neo, Cohen and Barez (2024) call φ.';
COMMENT ON COLUMN neuron_windows.position_id IS 'position_id of the position where the activation is largest in the window; the first such position if several have the same activation';
COMMENT ON COLUMN neuron_windows.activation IS 'largest activation in the window, after the activation function (hook_post), not rounded';

CREATE VIEW head_top AS
SELECT e.run_id, e.layer, e.unit AS head,
       e.list::VARCHAR::side AS side, e.rank, e.position_id, e.value AS toward_next
FROM base.ranked e WHERE e.kind = 'head';
COMMENT ON VIEW head_top IS 'At which positions is the direct effect of this head on the next token largest, and at which is it smallest? One row per head, side and rank, exact over the whole run.';
COMMENT ON COLUMN head_top.side IS 'side of the list. high: the largest direct effects, the largest first; low: the smallest (most negative) direct effects, the smallest first';
COMMENT ON COLUMN head_top.toward_next IS 'direct effect of the head on the next token, in logits, not rounded';

CREATE VIEW base.finished_sample AS
SELECT u.run_id, u.kind, u.layer, u.unit, unnest(s.position_ids) AS position_id, unnest(u.values)::FLOAT AS value
FROM base.sample_unit u
JOIN (SELECT run_id, list(position_id ORDER BY position_id) AS position_ids
      FROM base.sample_position GROUP BY run_id) s USING (run_id);
COMMENT ON VIEW base.finished_sample IS 'One row per sampled position and unit (neuron or head) of a finished run. For an unfinished run, rows are missing here; base.sample has them.';

CREATE VIEW base.sample AS
FROM base.finished_sample
UNION ALL
SELECT r.run_id, r.kind, r.layer, (generate_subscripts(r.values, 1) - 1)::UINTEGER, r.position_id, unnest(r.values)::FLOAT
FROM base.sample_row r;
COMMENT ON VIEW base.sample IS 'One row per sampled position and unit (neuron or head) of every run. An unfinished run has rows only for the sampled positions that its ingest has reached.';

CREATE VIEW neuron_samples AS
SELECT e.run_id, e.layer, e.unit AS neuron, e.position_id, e.value FROM base.sample e WHERE e.kind = 'neuron';
COMMENT ON VIEW neuron_samples IS 'What is this neuron''s activation at randomly sampled positions? One row per sampled position and neuron, for all neurons. The sample is uniform over the run''s positions; special tokens are excluded unless the run has --special-in-lists.';
COMMENT ON COLUMN neuron_samples.value IS 'activation after the activation function (hook_post), rounded to 0.001';

CREATE VIEW head_samples AS
SELECT e.run_id, e.layer, e.unit AS head, e.position_id, e.value FROM base.sample e WHERE e.kind = 'head';
COMMENT ON VIEW head_samples IS 'What is this head''s direct effect on the next token at randomly sampled positions? One row per sampled position and head, for all heads. The sampled positions are those of neuron_samples.';
COMMENT ON COLUMN head_samples.value IS 'direct effect of the head on the next token, in logits, rounded to 0.001; NULL at the last position of a window, because it has no next token';

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
COMMENT ON VIEW histogram_bins IS 'Which range of values does each bin of a histogram cover? One row per bin. A value on the edge between two bins is counted in the bin farther from zero.';
COMMENT ON COLUMN histogram_bins.bin IS 'index of the bin in the column `histogram` of neuron_stats and head_stats, from 1';
COMMENT ON COLUMN histogram_bins.low IS 'lower edge of the bin: an activation for the histograms of neuron_stats, a direct effect in logits for those of head_stats. NULL for the first bin, which has no lower edge';
COMMENT ON COLUMN histogram_bins.high IS 'upper edge of the bin: an activation for the histograms of neuron_stats, a direct effect in logits for those of head_stats. NULL for the last bin, which has no upper edge';

CREATE MACRO base.values_of(steps) AS steps::DOUBLE / base.steps_a_value();
CREATE MACRO base.squares_of(steps) AS steps::DOUBLE / base.steps_a_square();
CREATE MACRO base.attention_of(steps) AS steps::DOUBLE / base.steps_of_attention();

CREATE VIEW base.unit_summary AS
SELECT run_id, kind, layer, unit, count, base.values_of(total) / nullif(count, 0) AS mean,
       CASE WHEN count > 0 THEN sqrt(greatest(0, base.squares_of(squares) / count - (base.values_of(total) / count) ** 2)) END AS std,
       CASE WHEN count > 0 THEN minimum END AS min, CASE WHEN count > 0 THEN maximum END AS max, positive / nullif(count, 0) AS fraction_positive, histogram,
       base.values_of(effect) / nullif(effect_count, 0) AS mean_effect, base.values_of(effect_abs) / nullif(effect_count, 0) AS mean_abs_effect
FROM base.unit_stat;
COMMENT ON VIEW base.unit_summary IS 'One row per neuron or head of a run: mean, standard deviation, min and max, computed from the sums in base.unit_stat.';

CREATE VIEW neuron_stats AS
SELECT run_id, layer, unit AS neuron, count, mean, std, min, max, fraction_positive, histogram, mean_effect, mean_abs_effect
FROM base.unit_summary WHERE kind = 'neuron';
COMMENT ON VIEW neuron_stats IS 'How are this neuron''s activations distributed? One row per neuron, exact over every stored position of the run. First positions of windows are included; special tokens are excluded unless the run has --special-in-lists.';
COMMENT ON COLUMN neuron_stats.count IS 'number of positions over which the statistics are computed; runs.special_excluded has the number of excluded positions';
COMMENT ON COLUMN neuron_stats.mean IS 'mean activation after the activation function (hook_post)';
COMMENT ON COLUMN neuron_stats.std IS 'population standard deviation of the activation after the activation function (hook_post)';
COMMENT ON COLUMN neuron_stats.min IS 'minimum activation after the activation function (hook_post)';
COMMENT ON COLUMN neuron_stats.max IS 'maximum activation after the activation function (hook_post)';
COMMENT ON COLUMN neuron_stats.fraction_positive IS 'fraction of positions with an activation above 0';
COMMENT ON COLUMN neuron_stats.histogram IS 'for each bin of histogram_bins, the number of positions whose activation is in the bin';
COMMENT ON COLUMN neuron_stats.mean_effect IS 'mean direct effect of the neuron on the next token, in logits';
COMMENT ON COLUMN neuron_stats.mean_abs_effect IS 'mean absolute direct effect of the neuron on the next token, in logits';

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
COMMENT ON VIEW head_stats IS 'What does this head attend to, and what are its direct effects? One row per head, exact over every stored position of the run. Positions with special tokens are excluded unless the run has --special-in-lists, but the attention that other positions pay to special tokens is counted.';
COMMENT ON COLUMN head_stats.count IS 'number of positions that have a next token';
COMMENT ON COLUMN head_stats.mean IS 'mean direct effect of the head on the next token, in logits';
COMMENT ON COLUMN head_stats.std IS 'population standard deviation of the head''s direct effect on the next token, in logits';
COMMENT ON COLUMN head_stats.min IS 'minimum direct effect of the head on the next token, in logits';
COMMENT ON COLUMN head_stats.max IS 'maximum direct effect of the head on the next token, in logits';
COMMENT ON COLUMN head_stats.histogram IS 'for each bin of histogram_bins, the number of positions whose direct effect on the next token, in logits, is in the bin';
COMMENT ON COLUMN head_stats.mean_effect IS 'mean direct effect of the head on the next token, in logits; equal to the column `mean`, and repeated under the name that it has in neuron_stats';
COMMENT ON COLUMN head_stats.mean_abs_effect IS 'mean absolute direct effect of the head on the next token, in logits';
COMMENT ON COLUMN head_stats.fraction_positive IS 'fraction of positions where the direct effect on the next token is above 0';
COMMENT ON COLUMN head_stats.attention_self IS 'mean attention of a position to itself, over attention_count positions';
COMMENT ON COLUMN head_stats.attention_previous IS 'mean attention to the previous position, over attention_count positions';
COMMENT ON COLUMN head_stats.attention_first IS 'mean attention to the first position of the window, over attention_count positions';
COMMENT ON COLUMN head_stats.attention_duplicate IS 'mean total attention from a position to all earlier occurrences of its token, over the positions that have such an occurrence';
COMMENT ON COLUMN head_stats.attention_induction IS 'mean total attention from a position to the tokens directly after earlier occurrences of its token, over the positions that have such an occurrence (Olsson et al. 2022)';
COMMENT ON COLUMN head_stats.entropy IS 'mean entropy of the attention, in nats, over attention_count positions';
COMMENT ON COLUMN head_stats.attention_count IS 'number of positions over which attention_self, attention_previous, attention_first and entropy are averaged: all positions except the first of each window';
COMMENT ON COLUMN head_stats.attention_duplicate_count IS 'number of positions over which attention_duplicate is averaged';
COMMENT ON COLUMN head_stats.attention_induction_count IS 'number of positions over which attention_induction is averaged';

CREATE VIEW closure AS
SELECT p.run_id, m.n_layers, count(*) AS positions, max(error) AS worst,
       quantile_cont(error, 0.5) AS median, quantile_cont(error, 0.99) AS p99
FROM (SELECT run_id, greatest(abs(closure_top), coalesce(abs(closure_next), 0)) AS error FROM base.position) p
JOIN base.run r USING (run_id)
JOIN base.model m USING (model_id)
GROUP BY p.run_id, m.n_layers;
COMMENT ON VIEW closure IS 'Do the terms of each position sum to its logit? One row per run: maximum, median and 99th percentile of the closure error, abs(sum of terms − logit), over the run''s positions. Each position has two errors, for the next token and for the top prediction; the larger error is used.';
COMMENT ON COLUMN closure.worst IS 'maximum over the run''s positions of the closure error, abs(sum of terms − logit), in logits';
COMMENT ON COLUMN closure.median IS 'median over the run''s positions of the closure error, abs(sum of terms − logit), in logits';
COMMENT ON COLUMN closure.p99 IS '99th percentile over the run''s positions of the closure error, abs(sum of terms − logit), in logits';

-- 7. Public macros with parameters; run := NULL chooses the latest finished run -------------------

CREATE MACRO base.chosen_run(run) AS
    coalesce(run, (SELECT arg_max(run_id, finished) FROM base.run WHERE status = 'finished'));

-- If a macro's query uses an argument of the macro, the table aliases in the query end in an underscore.
-- The caller may pass a column as the argument, as in FROM positions p, decomposition(p.position_id).
-- An alias p inside the macro would then hide the caller's p.
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
COMMENT ON MACRO TABLE context IS 'What is the text around a position? One row with three texts: the tokens before the position, the position''s own token, and the tokens after the position. The arguments `before` and `after` are numbers of tokens, at most 100,000 each.';

CREATE MACRO base.terms(position_id) AS TABLE
WITH asked_ AS MATERIALIZED (FROM base.position p_ WHERE p_.position_id = position_id LIMIT 1), -- LIMIT 1 makes DuckDB use the index; MATERIALIZED makes DuckDB read the row only once
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
COMMENT ON MACRO TABLE base.terms IS 'Which stored terms of a prediction''s logit are not neurons? One row per term, such as a head or a bias. The terms and the stored neurons together sum to the logit.';

CREATE MACRO decomposition(position_id) AS TABLE
SELECT 'neuron' AS component, n_.layer, NULL::UTINYINT AS head, n_.neuron, n_.toward_next, n_.toward_top
FROM neurons n_ WHERE n_.position_id = position_id
UNION ALL
FROM base.terms(position_id);
COMMENT ON MACRO TABLE decomposition IS 'Which stored terms add up to this prediction''s logit? One row per term: embeddings, heads, stored neurons, remainders and biases. toward_next sums to the centred logit of the next token, and toward_top to that of the top prediction.';

-- Each common table expression has only one join, so that DuckDB uses the index to find the rows of base.position.
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
COMMENT ON MACRO TABLE neuron_contexts IS 'At which positions is this neuron''s activation largest and smallest, and which tokens are at these positions? One row per side and rank, exact over the whole run.';

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
COMMENT ON MACRO TABLE head_contexts IS 'At which positions is the direct effect of this head on the next token largest or smallest, and to which source does the head attend most at each of them? One row per side and rank, exact over the whole run.';

CREATE MACRO head_effects_by_document(layer, head, run := NULL) AS TABLE
SELECT p_.document_id, count(*) AS positions, sum(h_.toward_next)::DOUBLE AS effect_sum, sum(abs(h_.toward_next))::DOUBLE AS abs_effect_sum
FROM heads h_ JOIN base.position p_ USING (run_id, position_id)
WHERE h_.run_id = base.chosen_run(run) AND h_.layer = layer AND h_.head = head AND h_.toward_next IS NOT NULL
  AND h_.position_id NOT IN (SELECT position_id FROM base.left_out)
GROUP BY p_.document_id ORDER BY p_.document_id;
COMMENT ON MACRO TABLE head_effects_by_document IS 'How large is the direct effect of this head on the next token in each document? One row per document: the number of positions, and the sums of the effect and of its absolute value, in logits. Special tokens are excluded as in head_stats. To get the error bar of a mean effect, resample documents instead of positions, as `Head.mean_effect` and `Store.mean` do in Python.';

CREATE MACRO token_occurrences(token, run := NULL) AS TABLE
SELECT p_.* FROM positions p_
WHERE p_.run_id = base.chosen_run(run) AND p_.token = token
ORDER BY p_.position_id;
COMMENT ON MACRO TABLE token_occurrences IS 'At which positions does this token occur? One row per position. The token must match exactly, including its leading space.';

-- base.found finds a text in the documents of a run, as written or in a canonically equivalent form (é as one character
-- or as two).
-- For the equivalent forms, the text and the document are both normalised (NFC).
-- Offsets in the normalised document are converted to offsets in the original document by counting clusters.
-- A cluster is a character together with the combining marks that follow it, with which it may compose.
-- The common table expressions pass each other offsets instead of texts, because the texts may be long.
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
      AND strlen(text) > length(text) -- an ASCII text has no other canonically equivalent form
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
      FROM base.found(text, base.chosen_run(run))) h_ -- limits the join to the passages in which the tokens of a match begin; otherwise each match would be compared with all positions of a long document
JOIN base.position p_ ON p_.document_id = h_.document_id AND base.passage_of(p_.char_start) = h_.passage
WHERE p_.run_id = base.chosen_run(run) AND p_.char_start < h_.high AND p_.char_end > h_.low
GROUP BY h_.document_id, h_.low, h_.high
HAVING min(p_.char_start) <= h_.low AND max(p_.char_end) >= h_.high
ORDER BY first_position_id, char_start;
COMMENT ON MACRO TABLE phrase IS 'Where does this text occur? One row per occurrence; canonically equivalent forms match too (é as one character or as two). whole_tokens: whether the occurrence begins and ends at token boundaries. If occurrences overlap, only the first is counted. `annotate phrase` gives the same rows with the text around each occurrence.';

-- 8. Weights: neurons and embeddings, computed from a model's processed weights -------------------

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
COMMENT ON TABLE base.weights IS 'One row per model whose weights were read by `annotate weights`. top: the number k of entries in each top-k list; distance: the number of tokens from source to destination in the QK circuits; libraries: the versions of the libraries that computed the results. The same transaction writes this row and the model''s other rows.';
INSERT INTO base.catalogue VALUES ('weights', 'model', ['model_id'], [], true, NULL);
COMMENT ON COLUMN base.weights.dimensions IS 'number of dimensions of the residual stream in which random rotations act: d_model − 1 with LayerNorm, because LayerNorm and centring remove the direction (1, …, 1), and d_model with RMSNorm';
COMMENT ON COLUMN base.weights.rotations IS 'number of seeded random rotations from which the null distributions of each head''s copying_z and matching_z are computed';
COMMENT ON COLUMN base.weights.directions IS 'number of seeded random unit vectors from which congruence_mean and congruence_std are computed';
COMMENT ON COLUMN base.weights.congruence_mean IS 'mean, over random unit vectors, of a vector''s largest inner product with the W_U column of a real token (padding ids excluded), in centred logits at σ = 1; NULL for a row that was stored under schema version 8, which drew no random vectors';
COMMENT ON COLUMN base.weights.congruence_std IS 'standard deviation, over random unit vectors, of a vector''s largest inner product with the W_U column of a real token (padding ids excluded), in centred logits at σ = 1; NULL for a row that was stored under schema version 8, which drew no random vectors';

CREATE TABLE base.neuron_vocabulary (
    model_id   INTEGER   NOT NULL,
    layer      UTINYINT  NOT NULL,
    neuron     UINTEGER  NOT NULL,
    direction  direction NOT NULL,
    rank       USMALLINT NOT NULL,
    token_id   INTEGER   NOT NULL,
    congruence FLOAT     NOT NULL
);
COMMENT ON TABLE base.neuron_vocabulary IS 'One row per neuron, direction (promotes or suppresses) and rank, sorted by layer, neuron, direction and rank: a token that the neuron promotes or suppresses.';
INSERT INTO base.catalogue VALUES ('neuron_vocabulary', 'model', ['model_id', 'layer', 'neuron', 'direction', 'rank'], ['layer', 'neuron', 'direction', 'rank'], true, NULL);

CREATE TABLE base.neuron_weight (
    model_id INTEGER   NOT NULL,
    layer    UTINYINT  NOT NULL,
    neuron   UINTEGER  NOT NULL,
    in_norm  FLOAT     NOT NULL,
    out_norm FLOAT     NOT NULL,
    cosine   FLOAT     NOT NULL,
    bias     FLOAT     NOT NULL,
    gate_norm   FLOAT,
    gate_cosine FLOAT,
    gate_bias   FLOAT
);
COMMENT ON TABLE base.neuron_weight IS 'One row per neuron of a model, sorted by layer and neuron: the norms of W_in and W_out, the cosine between W_in and W_out, and the bias. For a gated MLP also the norm of W_gate, the cosine between W_gate and W_out, and the bias of the gate.';
INSERT INTO base.catalogue VALUES ('neuron_weight', 'model', ['model_id', 'layer', 'neuron'], ['layer', 'neuron'], true, NULL);

CREATE TABLE base.neuron_read (
    model_id      INTEGER   NOT NULL,
    layer         UTINYINT  NOT NULL,
    neuron        UINTEGER  NOT NULL,
    reading       reading   NOT NULL,
    rank          USMALLINT NOT NULL,
    source_layer  UTINYINT  NOT NULL,
    source_head   UTINYINT,
    source_neuron UINTEGER ,
    weight        FLOAT     NOT NULL,
    z             FLOAT
);
COMMENT ON TABLE base.neuron_read IS 'One row per neuron, input of the neuron (reading), kind of source (earlier head or earlier neuron) and rank, sorted by layer and neuron. The rows are the sources with the largest virtual weights (products of the source''s output weights and the neuron''s input weights).';
INSERT INTO base.catalogue VALUES ('neuron_read', 'model', ['model_id', 'layer', 'neuron', 'reading', 'source_layer', 'source_head', 'source_neuron'], ['layer', 'neuron', 'reading', 'source_head IS NULL', 'rank'], true, NULL);

CREATE TABLE base.direct_path (
    model_id      INTEGER   NOT NULL,
    token_id      INTEGER   NOT NULL,
    rank          USMALLINT NOT NULL,
    next_token_id INTEGER   NOT NULL,
    logprob       FLOAT     NOT NULL
);
COMMENT ON TABLE base.direct_path IS 'One row per token and rank, sorted by token_id and rank: a next token that the direct path (embedding, norm and unembedding) predicts after the token.';
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
COMMENT ON TABLE base.bigram_agreement IS 'One row per finished run and token that has a next token somewhere in the run, sorted by token_id: how well the direct path (embedding, norm and unembedding) predicts which tokens come next after this token.';
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
COMMENT ON TABLE base.bigram_distance IS 'One row per finished run and range of bigram counts, sorted by min_count. The row is about the bigrams whose number of positions is in the range: how similar the embedding of the first token and the unembedding of the second token are, on average.';
INSERT INTO base.catalogue VALUES ('bigram_distance', 'run', ['run_id', 'min_count'], ['min_count'], true, NULL);

-- The views below use LEFT JOIN although every token has a row in the vocabulary.
-- With inner joins, DuckDB would first join two copies of the vocabulary with each other.
CREATE VIEW neuron_vocabulary AS
SELECT n.model_id, n.layer, n.neuron, n.direction, n.rank, n.token_id, t.token, n.congruence
FROM base.neuron_vocabulary n
LEFT JOIN vocabulary t ON t.model_id = n.model_id AND t.token_id = n.token_id;
COMMENT ON VIEW neuron_vocabulary IS 'Which tokens does this neuron promote, and which does it suppress? One row per neuron, direction (promotes or suppresses) and rank. The token that the neuron promotes most is called its next-token (Neo, Cohen and Barez 2024).';
COMMENT ON COLUMN neuron_vocabulary.direction IS 'direction of the list. promotes: the tokens with the highest congruence, the highest first; suppresses: the tokens with the lowest congruence, the lowest first';
COMMENT ON COLUMN neuron_vocabulary.rank IS 'rank of the token in its list, from 1, among real tokens (padding ids excluded); if values are equal, the lower token_id comes first';
COMMENT ON COLUMN neuron_vocabulary.congruence IS 'congruence of the neuron with the token, ⟨W_out, W_U⟩, in centred logits per unit of activation at σ = 1. For the token that the neuron promotes most, weight_stats.congruence_z compares the congruence with its null distribution; the store has no null distribution for other tokens';

CREATE VIEW neuron_reads AS
SELECT r.model_id, r.layer, r.neuron, CASE WHEN r.source_head IS NULL THEN 'neuron' ELSE 'head' END AS component,
       r.rank, r.source_layer, r.source_head, r.source_neuron, r.weight, r.z, r.reading
FROM base.neuron_read r;
COMMENT ON VIEW neuron_reads IS 'From which earlier heads and neurons can this neuron read? One row per neuron, input of the neuron (reading), kind of source (head or neuron) and rank: the sources with the largest virtual weights (Elhage et al. 2021).';
COMMENT ON COLUMN neuron_reads.reading IS 'which input of the neuron reads the source: pre (through W_gate in a gated MLP, else through W_in) or pre_linear (through W_in of a gated MLP)';
COMMENT ON COLUMN neuron_reads.component IS 'kind of the source: head or neuron';
COMMENT ON COLUMN neuron_reads.rank IS 'rank of the source among the sources of its kind, from 1, by abs(weight)';
COMMENT ON COLUMN neuron_reads.weight IS 'virtual weight at scale σ = 1 of the norm before the MLP. For a source head it is the norm ‖W_O W_in‖ (pre-activation per unit of the head''s z), and for a source neuron it is the product W_out W_in (pre-activation per unit of the source''s activation). In a gated MLP, W_gate takes the place of W_in if reading is pre';
COMMENT ON COLUMN neuron_reads.z IS 'z-score of the weight (for a head, of weight²) under its null distribution, in which W_in is rotated at random; computed in closed form. The rows are the largest of many weights, so z is large even by chance: the largest abs(z) of n source neurons is then about √(2 ln n)';

CREATE VIEW direct_path AS
SELECT f.model_id, f.token_id, t.token, f.rank, f.next_token_id, n.token AS next_token, f.logprob
FROM base.direct_path f
LEFT JOIN vocabulary t ON t.model_id = f.model_id AND t.token_id = f.token_id
LEFT JOIN vocabulary n ON n.model_id = f.model_id AND n.token_id = f.next_token_id;
COMMENT ON VIEW direct_path IS 'Which next token does the model predict after this token without any head or neuron? One row per token and rank. The token''s embedding passes only through the final norm, with its own σ, and the unembedding: softmax of norm(W_E) W_U + b_U.';
COMMENT ON COLUMN direct_path.rank IS 'rank of the next token in the prediction of the direct path (embedding, norm and unembedding), from 1, among real tokens (padding ids excluded); if values are equal, the lower token_id comes first';
COMMENT ON COLUMN direct_path.logprob IS 'log-probability, in nats, that the direct path (embedding, norm and unembedding) gives to the next token; the softmax includes padding ids. The store has no null distribution for it, but bigram_agreement has a baseline: the direct path of another token';

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
COMMENT ON VIEW bigrams IS 'Which tokens come next after this token in the corpus? One row per run, token and next token.';
COMMENT ON COLUMN bigrams.count IS 'number of positions with this token and this next token';
COMMENT ON COLUMN bigrams.share IS 'fraction of the positions with this token (and any next token) that have this next token';

CREATE VIEW bigram_agreement AS
SELECT a.run_id, a.token_id, t.token, a.count, a.next_tokens, a.rank_correlation, a.divergence, a.overlap,
       a.shuffled_rank_correlation, a.shuffled_divergence, a.shuffled_overlap
FROM base.bigram_agreement a
JOIN base.run r USING (run_id)
LEFT JOIN vocabulary t ON t.model_id = r.model_id AND t.token_id = a.token_id;
COMMENT ON VIEW bigram_agreement IS 'Does the direct path (embedding, norm and unembedding) predict which tokens come next after this token in the corpus? One row per finished run and token; special tokens are excluded unless the run has --special-in-lists. The columns shuffled_… are the baseline: they use the direct path of another token of the run, drawn at random.';
COMMENT ON COLUMN bigram_agreement.count IS 'number of positions of the token that have a next token';
COMMENT ON COLUMN bigram_agreement.next_tokens IS 'number of distinct next tokens after the token';
COMMENT ON COLUMN bigram_agreement.rank_correlation IS 'Spearman correlation of the bigram counts (ties averaged) with the logits of the direct path (embedding, norm and unembedding), over all real tokens (padding ids excluded)';
COMMENT ON COLUMN bigram_agreement.divergence IS 'Kullback-Leibler divergence, in nats, of the distribution of next tokens in the corpus from the prediction of the direct path (embedding, norm and unembedding), a softmax that includes padding ids';
COMMENT ON COLUMN bigram_agreement.overlap IS 'fraction of the ten most frequent next tokens (of all next tokens, if there are fewer than ten) that are among the ten top predictions of the direct path (embedding, norm and unembedding)';
COMMENT ON COLUMN bigram_agreement.shuffled_rank_correlation IS 'baseline of rank_correlation: the same correlation for the direct path of another token, which is drawn at random (seeded) once per token';
COMMENT ON COLUMN bigram_agreement.shuffled_divergence IS 'baseline of divergence: the same divergence, in nats, from the direct path of another token, which is drawn at random (seeded) once per token';
COMMENT ON COLUMN bigram_agreement.shuffled_overlap IS 'baseline of overlap: the same fraction for the direct path of another token, which is drawn at random (seeded) once per token';

CREATE VIEW bigram_summary AS
WITH weighted AS (SELECT *, count / sum(count) OVER (PARTITION BY run_id) AS weight FROM base.bigram_agreement)
SELECT run_id, count(*) AS tokens, sum(count)::BIGINT AS positions,
       sum(weight * rank_correlation) AS rank_correlation, sum(weight * shuffled_rank_correlation) AS shuffled_rank_correlation,
       sum(weight * divergence) AS divergence, sum(weight * shuffled_divergence) AS shuffled_divergence,
       sum(weight * overlap) AS overlap, sum(weight * shuffled_overlap) AS shuffled_overlap
FROM weighted GROUP BY run_id;
COMMENT ON VIEW bigram_summary IS 'How well do the embeddings alone predict the corpus''s bigrams? One row per finished run: means over the tokens of bigram_agreement, in which each token is weighted by its number of positions. The columns shuffled_… are the baseline.';
COMMENT ON COLUMN bigram_summary.tokens IS 'number of distinct tokens that have a next token';
COMMENT ON COLUMN bigram_summary.rank_correlation IS 'weighted mean over tokens of the Spearman correlation of bigram counts with the logits of the direct path (embedding, norm and unembedding)';
COMMENT ON COLUMN bigram_summary.divergence IS 'weighted mean over tokens of the Kullback-Leibler divergence, in nats, of the distribution of next tokens in the corpus from the prediction of the direct path (embedding, norm and unembedding)';
COMMENT ON COLUMN bigram_summary.overlap IS 'weighted mean over tokens of the fraction of the ten most frequent next tokens that are among the ten top predictions of the direct path (embedding, norm and unembedding)';
COMMENT ON COLUMN bigram_summary.shuffled_rank_correlation IS 'baseline of rank_correlation: weighted mean over tokens of bigram_agreement.shuffled_rank_correlation';
COMMENT ON COLUMN bigram_summary.shuffled_divergence IS 'baseline of divergence: weighted mean over tokens of bigram_agreement.shuffled_divergence, in nats';
COMMENT ON COLUMN bigram_summary.shuffled_overlap IS 'baseline of overlap: weighted mean over tokens of bigram_agreement.shuffled_overlap';

CREATE VIEW bigram_distances AS
SELECT d.run_id, d.min_count, d.max_count, d.bigrams, d.inner_product, d.cosine, d.cosine_std FROM base.bigram_distance d;
COMMENT ON VIEW bigram_distances IS 'Do the tokens of frequent bigrams have similar embeddings and unembeddings? One row per finished run and range of bigram counts. For each bigram, the W_E row of the first token, after the final norm, is compared with the W_U column of the second token.';
COMMENT ON COLUMN bigram_distances.min_count IS 'lower end (inclusive) of the range of bigram counts; the count of a bigram is its number of positions. The row with min_count 0 is for pairs of a first and a second token that both occur in bigrams of the run, but never together';
COMMENT ON COLUMN bigram_distances.max_count IS 'upper end (inclusive) of the range of bigram counts; the count of a bigram is its number of positions';
COMMENT ON COLUMN bigram_distances.bigrams IS 'number of distinct bigrams with a count in this range';
COMMENT ON COLUMN bigram_distances.inner_product IS 'mean, over the bigrams, of the inner product of the first token''s W_E row, after the final norm, and the second token''s W_U column. It is the direct path''s centred logit without b_U; the baseline is the row with min_count 0, for bigrams that do not occur';
COMMENT ON COLUMN bigram_distances.cosine IS 'mean, over the bigrams, of the cosine between the first token''s W_E row, after the final norm, and the second token''s W_U column. The row with min_count 0 is the baseline and has only bigrams that do not occur';
COMMENT ON COLUMN bigram_distances.cosine_std IS 'standard deviation, over the bigrams, of the cosine whose mean is in the column `cosine`';

-- 9. Weights: heads, and their behaviour compared with what the weights predict -------------------

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
COMMENT ON TABLE base.head_vocabulary IS 'One row per head, frequent source token and rank, sorted by layer, head, source and rank: a token (output) that the head promotes if it attends to the source token. source and output are token ids.';
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
COMMENT ON TABLE base.head_pair IS 'One row per head and rank, sorted by layer, head and rank: a pair of destination token and source token with high attention. destination and source are token ids.';
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
COMMENT ON TABLE base.skip_trigram IS 'One row per head and rank, sorted by layer, head and rank: a strong skip-trigram (source … destination → output). At the destination token, the head attends to the earlier source token and thereby promotes the output token. The columns source, destination and output are token ids.';
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
COMMENT ON TABLE base.head_weight IS 'One row per head: scores computed from its weights, and its mean attention on repeated random tokens.';
INSERT INTO base.catalogue VALUES ('head_weight', 'model', ['model_id', 'layer', 'head'], ['layer', 'head'], true, NULL);

CREATE TABLE base.head_distance (
    model_id INTEGER   NOT NULL,
    layer    UTINYINT  NOT NULL,
    head     UTINYINT  NOT NULL,
    distance USMALLINT NOT NULL,
    score    FLOAT     NOT NULL
);
COMMENT ON TABLE base.head_distance IS 'One row per head and distance (the number of tokens from the source to the destination, from 0): the attention score at this distance, with the mean embedding as query and key.';
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
COMMENT ON TABLE base.head_composition IS 'One row per kind of composition (Q, K or V), head, and head of an earlier layer: how much the head reads of the earlier head''s output.';
INSERT INTO base.catalogue VALUES ('head_composition', 'model', ['model_id', 'kind', 'earlier_layer', 'earlier_head', 'layer', 'head'], ['kind', 'layer', 'head', 'earlier_layer', 'earlier_head'], true, NULL);

CREATE VIEW weight_stats AS
SELECT w.model_id, w.layer, NULL::UTINYINT AS head, w.neuron, w.cosine, w.cosine * sqrt(m.dimensions) AS cosine_z,
       w.in_norm, w.out_norm, w.bias, w.gate_norm, w.gate_cosine, w.gate_bias, t.token_id AS next_token_id, t.token AS next_token, t.congruence,
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
COMMENT ON VIEW weight_stats IS 'What do the weights of a neuron or head say about its function? One row per neuron (head is NULL) and per head (neuron is NULL). The norm is folded into the weights that read the residual stream. W_U is centred over the vocabulary. If the norm is LayerNorm, the weights that write to the residual stream are centred over d_model.';
COMMENT ON COLUMN weight_stats.cosine IS 'cosine between a neuron''s W_in and W_out. With a cosine near −1, the neuron erases the direction that it reads; with a cosine near 1, it amplifies that direction';
COMMENT ON COLUMN weight_stats.cosine_z IS 'z-score of the cosine under its null distribution: for random directions the cosine has mean 0 and standard deviation 1 / √(d_model − 1), or 1 / √d_model in a model with RMSNorm';
COMMENT ON COLUMN weight_stats.gate_norm IS 'norm ‖W_gate‖ of a neuron of a gated MLP (pre-activation per unit of the normalised residual stream); NULL without a gate';
COMMENT ON COLUMN weight_stats.gate_cosine IS 'cosine between W_gate and W_out of a neuron of a gated MLP; NULL without a gate';
COMMENT ON COLUMN weight_stats.gate_bias IS 'bias of a neuron''s gate; NULL without a gate';
COMMENT ON COLUMN weight_stats.in_norm IS 'norm ‖W_in‖ of a neuron (change of the pre-activation, in a gated MLP of the factor of its activation, per unit of the normalised residual stream)';
COMMENT ON COLUMN weight_stats.out_norm IS 'norm ‖W_out‖ of a neuron: the length of the vector that the neuron adds to the residual stream, per unit of activation';
COMMENT ON COLUMN weight_stats.bias IS 'bias b_in of a neuron, with the norm''s bias folded in: the neuron''s pre-activation if the residual stream has no component along W_in';
COMMENT ON COLUMN weight_stats.next_token IS 'next-token of a neuron: the token that the neuron promotes most, by congruence (Neo, Cohen and Barez 2024)';
COMMENT ON COLUMN weight_stats.congruence IS 'congruence of a neuron with its next-token (the token that it promotes most), in centred logits per unit of activation at σ = 1';
COMMENT ON COLUMN weight_stats.congruence_z IS 'z-score of the congruence under its null distribution: the largest congruence over all real tokens (padding ids excluded) of a vector that has the norm of W_out and a random direction';
COMMENT ON COLUMN weight_stats.draws IS 'number of seeded random draws in the null distribution of a neuron''s congruence_z, or of a head''s copying_z and matching_z';
COMMENT ON COLUMN weight_stats.copying IS 'copying score of a head, from −1 to 1: Σ Re λ / Σ |λ| over the eigenvalues λ of W_E W_OV W_U. A head with a score near 1 promotes the tokens that it attends to (Elhage et al. 2021)';
COMMENT ON COLUMN weight_stats.copying_z IS 'z-score of the copying score under its null distribution. In the null distribution, the directions that the head reads are rotated at random relative to the directions that it writes, and the mean score is 0';
COMMENT ON COLUMN weight_stats.copying_rank IS 'median, over frequent tokens, of the rank of the attended token itself when all real tokens are sorted by how much the head promotes them (1: the head promotes the attended token most). The store has no null distribution for this rank; for a head without a preference it is about half the number of real tokens';
COMMENT ON COLUMN weight_stats.matching IS 'matching score of a head, from −1 to 1: Σ Re λ / Σ |λ| over the eigenvalues λ of W_E W_QK W_Eᵀ at distance 0. A head with a score near 1 attends from a token to other occurrences of the same token';
COMMENT ON COLUMN weight_stats.matching_z IS 'z-score of the matching score under its null distribution. In the null distribution, the directions of the head''s queries are rotated at random relative to the directions of its keys, and the mean score is 0';
COMMENT ON COLUMN weight_stats.ov_norm IS 'Frobenius norm ‖W_V W_O‖ of a head''s OV circuit';
COMMENT ON COLUMN weight_stats.qk_norm IS 'Frobenius norm ‖W_Q W_Kᵀ‖ of a head''s QK circuit';

CREATE VIEW head_vocabulary AS
SELECT e.model_id, e.layer, e.head, e.source AS source_token_id, s.token AS source_token, e.rank,
       e.output AS token_id, t.token, e.effect
FROM base.head_vocabulary e
LEFT JOIN vocabulary s ON s.model_id = e.model_id AND s.token_id = e.source
LEFT JOIN vocabulary t ON t.model_id = e.model_id AND t.token_id = e.output;
COMMENT ON VIEW head_vocabulary IS 'Which tokens does this head promote if it attends to a given token? One row per head, frequent source token and rank: the head''s OV circuit (Elhage et al. 2021), computed from the weights alone.';
COMMENT ON COLUMN head_vocabulary.source_token_id IS 'token id of the attended token. It is one of the 256 tokens that were most frequent in the runs of the store when `annotate weights` read the weights (--fresh reads them again). If the store had no runs then, it is one of the tokenizer''s first merges';
COMMENT ON COLUMN head_vocabulary.rank IS 'rank of the promoted token, from 1, among real tokens (padding ids excluded); if values are equal, the lower token_id comes first';
COMMENT ON COLUMN head_vocabulary.effect IS 'effect of the head on the promoted token if its attention to the source token is 1: norm(W_E[source]) W_V W_O W_U, in centred logits at final σ = 1. The store has no null distribution for it. The rows are selected as the largest effects over all real tokens, so a large effect alone is no evidence';

CREATE VIEW head_pairs AS
SELECT e.model_id, e.layer, e.head, e.rank, e.destination AS destination_token_id, d.token AS destination_token,
       e.source AS source_token_id, s.token AS source_token, w.distance, e.attention
FROM base.head_pair e
LEFT JOIN base.weights w ON w.model_id = e.model_id
LEFT JOIN vocabulary d ON d.model_id = e.model_id AND d.token_id = e.destination
LEFT JOIN vocabulary s ON s.model_id = e.model_id AND s.token_id = e.source;
COMMENT ON VIEW head_pairs IS 'From which destination token to which source token does this head attend most? One row per head and rank: the head''s QK circuit (Elhage et al. 2021) among frequent tokens, computed from the weights alone.';
COMMENT ON COLUMN head_pairs.distance IS 'number of tokens from source to destination, set by `annotate weights --distance`; the QK circuit depends on this distance through rotary embeddings';
COMMENT ON COLUMN head_pairs.source_token_id IS 'token id of the attended token, one of the frequent tokens defined at head_vocabulary.source_token_id';
COMMENT ON COLUMN head_pairs.destination_token_id IS 'token id of the attending token, one of the frequent tokens defined at head_vocabulary.source_token_id';
COMMENT ON COLUMN head_pairs.attention IS 'attention probability of the source token. It is the softmax of the attention scores of all frequent tokens, each placed `distance` tokens before the destination token, with rotary embeddings and biases. The store has no null distribution for it; a head without a preference gives all frequent tokens the same probability';

CREATE VIEW skip_trigrams AS
SELECT e.model_id, e.layer, e.head, e.rank, e.source AS source_token_id, s.token AS source_token,
       e.destination AS destination_token_id, d.token AS destination_token,
       e.output AS output_token_id, o.token AS output_token, w.distance, e.attention, e.strength
FROM base.skip_trigram e
LEFT JOIN base.weights w ON w.model_id = e.model_id
LEFT JOIN vocabulary s ON s.model_id = e.model_id AND s.token_id = e.source
LEFT JOIN vocabulary d ON d.model_id = e.model_id AND d.token_id = e.destination
LEFT JOIN vocabulary o ON o.model_id = e.model_id AND o.token_id = e.output;
COMMENT ON VIEW skip_trigrams IS 'Which skip-trigrams source … destination → output do this head''s weights encode (Elhage et al. 2021)? At the destination token, the head attends to the earlier source token and thereby promotes the output token. One row per head and rank. Source and destination are frequent tokens; output is any token.';
COMMENT ON COLUMN skip_trigrams.source_token_id IS 'token id of the attended token, one of the frequent tokens defined at head_vocabulary.source_token_id';
COMMENT ON COLUMN skip_trigrams.destination_token_id IS 'token id of the attending token, one of the frequent tokens defined at head_vocabulary.source_token_id';
COMMENT ON COLUMN skip_trigrams.distance IS 'number of tokens from source to destination for which the attention is computed, as in head_pairs.distance';
COMMENT ON COLUMN skip_trigrams.attention IS 'attention probability from the destination token to the source token, computed as in head_pairs.attention';
COMMENT ON COLUMN skip_trigrams.strength IS 'product of the column attention and head_vocabulary.effect, in centred logits at final σ = 1. The store has no null distribution for it. The rows are selected as the largest products over all combinations of tokens, so a large product alone is no evidence';

CREATE VIEW head_distances AS
SELECT e.model_id, e.layer, e.head, e.distance, e.score,
       exp(e.score - e.highest) / sum(exp(e.score - e.highest)) OVER (PARTITION BY e.model_id, e.layer, e.head) AS attention
FROM (SELECT *, max(score) OVER (PARTITION BY model_id, layer, head) AS highest FROM base.head_distance) e;
COMMENT ON VIEW head_distances IS 'Which distance between destination and source does this head prefer, whatever the tokens are? One row per head and distance: the head''s QK circuit with the mean embedding as query and key, computed from the weights alone.';
COMMENT ON COLUMN head_distances.distance IS 'distance from source to destination, in tokens; 0 if they are the same position';
COMMENT ON COLUMN head_distances.score IS 'attention score before the softmax, rotary embeddings and biases included';
COMMENT ON COLUMN head_distances.attention IS 'attention probability of this distance: the softmax of the column score over all distances of the head. The store has no null distribution for it; a head without a preference gives all distances the same probability';

CREATE VIEW head_composition AS
WITH tested AS (
    SELECT m.model_id, 1 / sqrt(w.dimensions) AS baseline, (3 * m.n_heads ** 2 * m.n_layers * (m.n_layers - 1) / 2)::BIGINT AS pairs
    FROM base.model m JOIN base.weights w USING (model_id)
)
SELECT e.model_id, e.kind, e.earlier_layer, e.earlier_head, e.layer, e.head, e.score, t.baseline, e.z, e.p, t.pairs,
       e.p::DOUBLE * t.pairs AS by_chance
FROM base.head_composition e
LEFT JOIN tested t ON t.model_id = e.model_id;
COMMENT ON VIEW head_composition IS 'Which heads read the output of which earlier heads? One row per kind of composition (Q, K or V), head, and head of an earlier layer.';
COMMENT ON COLUMN head_composition.kind IS 'which input of the later head reads the earlier head''s output: queries (Q), keys (K, with rotary embeddings at distance 0) or values (V)';
COMMENT ON COLUMN head_composition.score IS 'composition score ‖A B‖ / (‖A‖ ‖B‖) with Frobenius norms (Elhage et al. 2021). A is the earlier head''s W_OV. B is the later head''s W_QK for kind Q, the transpose of W_QK for kind K, and the later head''s W_OV for kind V';
COMMENT ON COLUMN head_composition.baseline IS 'root mean square of the score under its null distribution. In the null distribution, B is rotated at random relative to A in the residual stream, which has d_model − 1 dimensions after centring, or d_model in a model with RMSNorm; the singular values of A and B stay the same';
COMMENT ON COLUMN head_composition.z IS 'z-score of score² under its null distribution (random rotations, as for baseline), computed in closed form. Sort by this column to find the strongest compositions. If z is below 0, the later head reads less of the earlier head''s output than by chance';
COMMENT ON COLUMN head_composition.p IS 'probability of an abs(z) at least this large under the null distribution, computed from the mean, std and skewness of the null distribution; 1e-30 stands for any smaller value';
COMMENT ON COLUMN head_composition.pairs IS 'number of tests in the model: the number of pairs of a head and a head of an earlier layer, times 3 kinds of composition (Q, K and V)';
COMMENT ON COLUMN head_composition.by_chance IS 'expected number of tests (see `pairs`) with an abs(z) at least this large under the null distribution: p × pairs';

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
COMMENT ON VIEW head_behaviour IS 'Does a head behave as its weights suggest? One row per head and run of its model (run_id is NULL if the model has no run). The columns corpus_… describe the head''s attention on the run''s corpus, the columns random_… describe it on repeated random tokens, and the columns weights_… have what the weights predict.';
COMMENT ON COLUMN head_behaviour.corpus_previous IS 'mean attention to the previous position on the corpus, as in head_stats';
COMMENT ON COLUMN head_behaviour.random_previous IS 'mean attention to the previous position on repeated random tokens: ten sequences, each of 25 distinct tokens repeated four times (Olsson et al. 2022)';
COMMENT ON COLUMN head_behaviour.weights_previous IS 'attention probability that the head''s QK circuit gives to distance 1, the previous position (head_distances.attention); the store has no null distribution for it';
COMMENT ON COLUMN head_behaviour.corpus_duplicate IS 'mean total attention, on the corpus, from a position to all earlier occurrences of its token, over the positions that have such an occurrence';
COMMENT ON COLUMN head_behaviour.random_duplicate IS 'mean total attention, on repeated random tokens, from a position to all earlier occurrences of its token, over the positions that have such an occurrence';
COMMENT ON COLUMN head_behaviour.weights_duplicate IS 'matching score of the head, as in weight_stats.matching; weight_stats.matching_z compares it with its null distribution';
COMMENT ON COLUMN head_behaviour.corpus_induction IS 'mean total attention, on the corpus, from a position to the tokens directly after earlier occurrences of its token, over the positions that have such an occurrence';
COMMENT ON COLUMN head_behaviour.random_induction IS 'mean total attention, on repeated random tokens, from a position to the tokens directly after earlier occurrences of its token, over the positions that have such an occurrence';
COMMENT ON COLUMN head_behaviour.weights_induction IS 'evidence from the weights that the head is an induction head. Each head of an earlier layer gives a product: its weights_previous times the z-score of its K-composition with this head under the null distribution (head_composition.z). The value is the largest of these products; NULL in layer 0';
COMMENT ON COLUMN head_behaviour.corpus_first IS 'mean attention to the first position of the window, on the corpus';
COMMENT ON COLUMN head_behaviour.random_first IS 'mean attention to the first position of the sequence, on repeated random tokens';
COMMENT ON COLUMN head_behaviour.corpus_self IS 'mean attention of a position to itself, on the corpus';
COMMENT ON COLUMN head_behaviour.random_self IS 'mean attention of a position to itself, on repeated random tokens';
COMMENT ON COLUMN head_behaviour.corpus_entropy IS 'mean entropy of the attention on the corpus, in nats';
COMMENT ON COLUMN head_behaviour.random_entropy IS 'mean entropy of the attention on repeated random tokens, in nats';
COMMENT ON COLUMN head_behaviour.copying IS 'copying score of the head, as in weight_stats.copying';
COMMENT ON COLUMN head_behaviour.copying_z IS 'z-score of the head''s copying score under its null distribution, as in weight_stats.copying_z';

-- 10. Next-token neurons: prompts, and the inputs of neurons at requested positions ---------------

CREATE TYPE neuron_source AS ENUM ('embed', 'pos_embed', 'head', 'attn_bias', 'mlp', 'mlp_bias', 'b_in');

CREATE MACRO base.is_next_token(token) AS starts_with(token, ' ') AND length(token) > 2;
COMMENT ON MACRO base.is_next_token IS 'Whether a neuron that promotes `token` most can be a next-token neuron (Neo, Cohen and Barez 2024). The token must start with a space and be longer than two characters, so that it begins a word.';

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
COMMENT ON TABLE base.next_token_neuron IS 'One row per next-token neuron or baseline neuron of a run for which `annotate next-token` collected prompts (short texts that activate the neuron): the settings of the command and the number of prompts. The same transaction writes this row and the prompts.';
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
    closure           FLOAT     NOT NULL,
    pre_linear        FLOAT,
    linear_closure    FLOAT
);
COMMENT ON TABLE base.neuron_occurrence IS 'The table has two kinds of rows. If prompt is NULL, the row is for a neuron and position for which `annotate inputs` computed the neuron''s inputs, with the whole window up to the position as context. Otherwise, the row is for a prompt of a neuron in base.next_token_neuron.';
INSERT INTO base.catalogue VALUES ('neuron_occurrence', 'run', ['run_id', 'layer', 'neuron', 'prompt', 'position_id'], ['prompt'], false, NULL);

CREATE TABLE base.neuron_input (
    run_id       INTEGER       NOT NULL,
    layer        UTINYINT      NOT NULL,
    neuron       UINTEGER      NOT NULL,
    prompt       USMALLINT,
    position_id  BIGINT        NOT NULL,
    reading      reading       NOT NULL,
    component    neuron_source NOT NULL,
    source_layer UTINYINT,
    source_head  UTINYINT,
    value        FLOAT         NOT NULL
);
COMMENT ON TABLE base.neuron_input IS 'One row per source (such as a head) for each row of base.neuron_occurrence: the term that the source adds to the neuron''s pre-activation or, if reading is pre_linear, to its linear input.';
INSERT INTO base.catalogue VALUES ('neuron_input', 'run', ['run_id', 'layer', 'neuron', 'prompt', 'position_id', 'reading', 'component', 'source_layer', 'source_head'], ['prompt', 'reading', 'component', 'source_layer', 'source_head'], false, NULL);

CREATE VIEW neuron_inputs AS
SELECT i.run_id, i.position_id, i.layer, i.neuron, i.component, i.source_layer, i.source_head, i.value,
       o.pre_activation, o.activation, o.closure, i.reading, o.pre_linear, o.linear_closure
FROM base.neuron_input i JOIN base.neuron_occurrence o USING (run_id, position_id, layer, neuron)
WHERE i.prompt IS NULL AND o.prompt IS NULL;
COMMENT ON VIEW neuron_inputs IS 'Which sources contribute to this neuron''s pre-activation at this position? One row per position, neuron and source for which `annotate inputs` was run. With the scale of the norm frozen, the values with reading = pre sum to the pre-activation (Neo, Cohen and Barez 2024).';
COMMENT ON COLUMN neuron_inputs.reading IS 'input of the neuron to which the source adds this term. pre: the pre-activation, read through W_gate in a gated MLP and else through W_in; pre_linear: in a gated MLP, the factor that multiplies the result of the activation function, read through W_in';
COMMENT ON COLUMN neuron_inputs.pre_linear IS 'in a gated MLP, the factor that multiplies the result of the activation function (hook_pre_linear). The values with reading = pre_linear sum to this factor. NULL without a gate';
COMMENT ON COLUMN neuron_inputs.linear_closure IS 'closure error of the linear input: the sum of the values with reading = pre_linear, minus the column pre_linear; NULL without a gate';
COMMENT ON COLUMN neuron_inputs.component IS 'kind of the source. embed: the embedding; pos_embed: the position embedding, if it is learned; head: a head; attn_bias and mlp_bias: the biases of a layer; mlp: all neurons of a layer; b_in: the neuron''s own bias with the folded bias of the norm (for reading = pre in a gated MLP, the bias of the gate)';
COMMENT ON COLUMN neuron_inputs.source_layer IS 'layer of the source, before the neuron''s own layer; heads and attn_bias can also be in the neuron''s own layer if the model''s blocks are sequential. NULL for embed, pos_embed and b_in';
COMMENT ON COLUMN neuron_inputs.value IS 'term that the source adds to the neuron''s pre-activation or, if reading is pre_linear, to its linear input; in the units of that input';
COMMENT ON COLUMN neuron_inputs.pre_activation IS 'pre-activation of the neuron before the activation function (hook_pre), not rounded; all rows of the same neuron and position have the same value';
COMMENT ON COLUMN neuron_inputs.activation IS 'activation of the neuron after the activation function (hook_post), not rounded; all rows of the same neuron and position have the same value';
COMMENT ON COLUMN neuron_inputs.closure IS 'closure error of the pre-activation: the sum of the values with reading = pre, minus the column pre_activation; all rows of the same neuron and position have the same value';

CREATE VIEW next_token_neurons AS
SELECT l.run_id, l.layer, l.neuron, l.is_baseline, v.token AS next_token, v.congruence,
       l.windows, l.max_tokens, l.share, l.std_threshold, l.prompts
FROM base.next_token_neuron l JOIN base.run r USING (run_id)
LEFT JOIN neuron_vocabulary v
  ON v.model_id = r.model_id AND v.layer = l.layer AND v.neuron = l.neuron AND v.direction = 'promotes' AND v.rank = 1;
COMMENT ON VIEW next_token_neurons IS 'Which next-token neurons and baseline neurons have prompts? A prompt is a short text that activates the neuron. One row per neuron for which `annotate next-token` was run.';
COMMENT ON COLUMN next_token_neurons.is_baseline IS 'whether the neuron is a baseline neuron. The token that a baseline neuron promotes most does not begin a word. The neuron was drawn at random among the few such neurons of its layer whose mean activation is nearest to that of a next-token neuron';
COMMENT ON COLUMN next_token_neurons.congruence IS 'congruence of the neuron with its next-token (the token that it promotes most), in centred logits per unit of activation at σ = 1; weight_stats.congruence_z compares it with its null distribution';
COMMENT ON COLUMN next_token_neurons.windows IS 'maximum number of the neuron''s top windows (neuron_windows) from which prompts were made';
COMMENT ON COLUMN next_token_neurons.max_tokens IS 'maximum length of a prompt, in tokens; a window that would need a longer prompt gives no prompt';
COMMENT ON COLUMN next_token_neurons.share IS 'smallest activation that the neuron may have on a prompt, as a fraction (0 to 1) of the neuron''s maximum activation in the whole window';
COMMENT ON COLUMN next_token_neurons.std_threshold IS 'threshold above which a head counts as active on a prompt (see active_heads). The head''s term of the neuron''s pre-activation must exceed the mean term of all heads before the neuron by more than this number of standard deviations';
COMMENT ON COLUMN next_token_neurons.prompts IS 'number of prompts of the neuron, duplicates included';

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
COMMENT ON VIEW prompts IS 'What is the shortest context that activates this neuron? One row per prompt of a next-token or baseline neuron. A prompt ends where the neuron''s activation is largest in one of its top windows. The prompt is the shortest text that ends there and on which the activation is at least next_token_neurons.share times the activation in the whole window.';
COMMENT ON COLUMN prompts.prompt IS 'id of the prompt among the neuron''s prompts: the rank of its window in neuron_windows';
COMMENT ON COLUMN prompts.duplicate_of IS 'id of the neuron''s first prompt with the same tokens; NULL for that first prompt, so WHERE duplicate_of IS NULL selects distinct prompts';
COMMENT ON COLUMN prompts.first_position_id IS 'position_id of the first token of the prompt''s text';
COMMENT ON COLUMN prompts.tokens IS 'number of tokens of the prompt that the model read, including a BOS if the run has one';
COMMENT ON COLUMN prompts.window_activation IS 'activation of the neuron (hook_post) at the prompt''s last token when the model reads the whole window, as in neuron_windows';
COMMENT ON COLUMN prompts.activation IS 'activation of the neuron (hook_post) at the prompt''s last token when the model reads the prompt alone';
COMMENT ON COLUMN prompts.pre_activation IS 'pre-activation of the neuron at the prompt''s last token when the model reads the prompt alone';
COMMENT ON COLUMN prompts.closure IS 'closure error: the sum of the prompt''s values in prompt_inputs with reading = pre, minus the column pre_activation, in units of the pre-activation';

CREATE VIEW prompt_inputs AS
SELECT e.run_id, e.layer, e.neuron, e.prompt, e.component, e.source_layer, e.source_head, e.value, e.reading
FROM base.neuron_input e WHERE e.prompt IS NOT NULL;
COMMENT ON VIEW prompt_inputs IS 'Which sources contribute to this neuron''s pre-activation at the end of a prompt when the model reads the prompt alone? One row per prompt and source, as in neuron_inputs.';
COMMENT ON COLUMN prompt_inputs.reading IS 'input of the neuron to which the source adds this term (pre or pre_linear), as in neuron_inputs';
COMMENT ON COLUMN prompt_inputs.value IS 'term that the source adds to the neuron''s pre-activation or, if reading is pre_linear, to its linear input; in the units of that input';

CREATE VIEW base.head_share AS
SELECT i.*, (i.value - avg(i.value) OVER of_prompt) / nullif(stddev_pop(i.value) OVER of_prompt, 0) AS above_mean
FROM prompt_inputs i WHERE i.component = 'head' AND i.reading = 'pre'
WINDOW of_prompt AS (PARTITION BY i.run_id, i.layer, i.neuron, i.prompt);
COMMENT ON VIEW base.head_share IS 'One row per prompt and head before the neuron (a head whose output the neuron reads). above_mean: the number of standard deviations by which the head''s term of the neuron''s pre-activation exceeds the mean term of all heads before the neuron.';

CREATE MACRO active_heads(std_threshold := NULL, run := NULL) AS TABLE
SELECT s_.run_id, s_.layer, s_.neuron, s_.prompt, s_.source_layer, s_.source_head, s_.value
FROM base.head_share s_ JOIN base.next_token_neuron l_ USING (run_id, layer, neuron)
WHERE s_.run_id = base.chosen_run(run) AND s_.above_mean > coalesce(std_threshold, l_.std_threshold)
ORDER BY s_.layer, s_.neuron, s_.prompt, s_.value DESC;
COMMENT ON MACRO TABLE active_heads IS 'Which heads activate this neuron on a prompt? One row per prompt and head whose term of the neuron''s pre-activation exceeds the mean term of all heads before the neuron by more than `std_threshold` standard deviations (Neo, Cohen and Barez 2024). With fewer than 6 heads before the neuron, no term can exceed the mean by more than 2 standard deviations. std_threshold := NULL takes the neuron''s value in next_token_neurons, which is 2 by default.';

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
COMMENT ON MACRO TABLE relevant_heads IS 'Which heads are active on some of this neuron''s prompts, but not on the others? One row per neuron and head; the fraction of the neuron''s distinct prompts on which the head is active is between `low` and `high`. is_baseline: whether the neuron is a baseline neuron.';

-- 11. Next-token neurons: relevant heads, scored explanations and ablations -----------------------

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
COMMENT ON TABLE base.head_prompt IS 'One row per relevant head of a neuron in base.next_token_neuron and distinct prompt of the neuron. is_active: whether the head is active on the prompt. probability: the probability of the neuron''s next-token (the token that it promotes most) after the prompt. ablated_activation, ablated_probability: the neuron''s activation and the same probability when the head is ablated.';
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
COMMENT ON TABLE base.ablation IS 'One row per relevant head of a neuron in base.next_token_neuron (a head that is active on some of the neuron''s prompts, but not on all): the permutation p-values of the Kolmogorov-Smirnov distances in the view `ablations`. The same transaction writes this row and the head''s rows of base.head_prompt.';
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
COMMENT ON TABLE base.explanation IS 'One row per explanation of when a relevant head (active on some of a neuron''s prompts, but not on all) is active. There is one for each combination of neuron, relevant head, method, language model and version of the language model''s prompt. Each answer of a language model is committed as soon as it arrives, so that no answer is paid for twice.';
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
COMMENT ON TABLE base.explanation_answer IS 'One row per explanation and held-out prompt: whether the head is predicted to be active on the prompt, from the explanation alone.';
INSERT INTO base.catalogue VALUES ('explanation_answer', 'run', ['explanation_id', 'prompt'], ['prompt'], false, 'explanation_id IN (SELECT explanation_id FROM base.explanation WHERE run_id = $id)');

CREATE VIEW head_prompts AS
SELECT h.run_id, h.layer, h.neuron, l.is_baseline, h.source_layer, h.source_head, h.prompt, h.is_active, h.is_held_out,
       o.activation, h.ablated_activation, h.probability, h.ablated_probability
FROM base.head_prompt h
JOIN base.next_token_neuron l USING (run_id, layer, neuron)
JOIN base.neuron_occurrence o USING (run_id, layer, neuron, prompt);
COMMENT ON VIEW head_prompts IS 'On which prompts is a relevant head active, and what changes if the head is ablated? A relevant head is active on some of the neuron''s prompts, but not on all (see relevant_heads). One row per relevant head and distinct prompt of a next-token or baseline neuron. The model reads the prompt alone.';
COMMENT ON COLUMN head_prompts.is_baseline IS 'whether the neuron is a baseline neuron; otherwise it is a next-token neuron (next_token_neurons.is_baseline)';
COMMENT ON COLUMN head_prompts.is_active IS 'whether the head is active on the prompt: its term of the neuron''s pre-activation is far above the mean term of all heads before the neuron (see active_heads)';
COMMENT ON COLUMN head_prompts.is_held_out IS 'whether the prompt is held out: explanations are made from the other prompts and scored on the held-out ones. About half of the active and half of the inactive prompts are held out at random; a group of near-duplicates is held out together or not at all. Two prompts are near-duplicates if their last n tokens are equal, where n is half the length of the shorter prompt, rounded up';
COMMENT ON COLUMN head_prompts.activation IS 'activation of the neuron after the activation function at the prompt''s last token';
COMMENT ON COLUMN head_prompts.ablated_activation IS 'activation of the neuron after the activation function at the prompt''s last token when the head is zero-ablated: z W_O is set to 0 at every position, and the attention bias with its folded value biases stays';
COMMENT ON COLUMN head_prompts.probability IS 'probability of the neuron''s next-token (the token that the neuron promotes most) after the prompt''s last token';
COMMENT ON COLUMN head_prompts.ablated_probability IS 'probability of the neuron''s next-token (the token that the neuron promotes most) after the prompt''s last token, when the head is zero-ablated';

-- base.margin multiplies the standard error by the 97.5 % quantile of Student's t distribution.
-- From 5 degrees of freedom on, the quantile is computed by Fisher's expansion (1926), with a relative error of at most
-- 0.02 %.
CREATE MACRO base.margin(error, freedom) AS error * CASE
    WHEN freedom BETWEEN 1 AND 4 THEN [12.706205, 4.302653, 3.182446, 2.776445][freedom::INTEGER]
    WHEN freedom > 4 THEN 1.959964 + 2.372271 / freedom + 2.822499 / freedom ** 2 + 2.55585 / freedom ** 3 + 1.589534 / freedom ** 4 END;
COMMENT ON MACRO base.margin IS 'Half the width of the 95 % confidence interval of a mean, from the mean''s standard error and its degrees of freedom; NULL for 0 degrees of freedom.';
CREATE MACRO base.margin_of(std, n) AS base.margin(std / sqrt(n), n - 1);
COMMENT ON MACRO base.margin_of IS 'Half the width of the 95 % confidence interval of the mean of n values, from their sample standard deviation.';

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
COMMENT ON VIEW ablations IS 'Does the neuron need this head on the prompts where the head is active, and only there? One row per relevant head (see relevant_heads): how much the neuron''s activation and the probability of its next-token decrease when the head is zero-ablated, on the prompts where the head is active and on the others (Neo, Cohen and Barez 2024).';
COMMENT ON COLUMN ablations.active_prompts IS 'number of prompts on which the head is active: sample size of the columns …_active';
COMMENT ON COLUMN ablations.inactive_prompts IS 'number of prompts on which the head is not active: sample size of the columns …_inactive';
COMMENT ON COLUMN ablations.activation_fall_active IS 'mean decrease of the neuron''s activation (after the activation function) when the head is ablated, over the prompts on which the head is active';
COMMENT ON COLUMN ablations.activation_fall_inactive IS 'mean decrease of the neuron''s activation (after the activation function) when the head is ablated, over the prompts on which the head is not active';
COMMENT ON COLUMN ablations.activation_margin_active IS 'half the width of the 95 % confidence interval of activation_fall_active (Student''s t over the prompts); NULL with fewer than two prompts';
COMMENT ON COLUMN ablations.activation_margin_inactive IS 'half the width of the 95 % confidence interval of activation_fall_inactive (Student''s t over the prompts); NULL with fewer than two prompts';
COMMENT ON COLUMN ablations.activation_distance IS 'Kolmogorov-Smirnov distance, 0 to 1, between two distributions of the decrease of the activation when the head is ablated: over the prompts on which the head is active, and over the other prompts. NULL if the head is active on all of the prompts or on none';
COMMENT ON COLUMN ablations.activation_p IS 'exact permutation p-value of activation_distance: of all ways to label the same number of prompts as active, the fraction for which the distance is at least as large';
COMMENT ON COLUMN ablations.probability_fall_active IS 'mean decrease of the probability of the neuron''s next-token (the token that it promotes most) when the head is ablated, over the prompts on which the head is active';
COMMENT ON COLUMN ablations.probability_fall_inactive IS 'mean decrease of the probability of the neuron''s next-token (the token that it promotes most) when the head is ablated, over the prompts on which the head is not active';
COMMENT ON COLUMN ablations.probability_margin_active IS 'half the width of the 95 % confidence interval of probability_fall_active (Student''s t over the prompts); NULL with fewer than two prompts';
COMMENT ON COLUMN ablations.probability_margin_inactive IS 'half the width of the 95 % confidence interval of probability_fall_inactive (Student''s t over the prompts); NULL with fewer than two prompts';
COMMENT ON COLUMN ablations.probability_distance IS 'Kolmogorov-Smirnov distance, 0 to 1, between two distributions of the decrease of the probability when the head is ablated: over the prompts on which the head is active, and over the other prompts. NULL if the head is active on all of the prompts or on none';
COMMENT ON COLUMN ablations.probability_p IS 'exact permutation p-value of probability_distance: of all ways to label the same number of prompts as active, the fraction for which the distance is at least as large';

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
COMMENT ON VIEW explanations IS 'How is it explained in words on which prompts a relevant head (see relevant_heads) is active? One row per explanation: one for each combination of neuron (next-token or baseline), relevant head, method, language model and version of the language model''s prompt.';
COMMENT ON COLUMN explanations.method IS 'method of the explanation. decision_list: rules about tokens and their offsets, tried one after the other; language_model: a text by a language model';
COMMENT ON COLUMN explanations.why_none IS 'reason why the explanation has no text; NULL if there is a text';
COMMENT ON COLUMN explanations.answers IS 'number of held-out prompts to which the explanation has been applied so far';
COMMENT ON COLUMN explanations.tokens_in IS 'number of input tokens of all requests to the language model (for the explanation''s text and for all answers); NULL if the endpoint did not report the number';
COMMENT ON COLUMN explanations.tokens_out IS 'number of tokens that the language model wrote in reply to all requests (for the explanation''s text and for all answers); NULL if the endpoint did not report the number';
COMMENT ON COLUMN explanations.cost IS 'cost of all requests to the language model (for the explanation''s text and for all answers), at the prices that the user gave; NULL without prices';
COMMENT ON COLUMN explanations.seconds IS 'time in seconds to make and score the explanation, including the time spent waiting for the endpoint';

CREATE VIEW explanation_answers AS
SELECT e.explanation_id, e.run_id, e.layer, e.neuron, e.source_layer, e.source_head, a.prompt, h.is_active, a.answer
FROM base.explanation_answer a JOIN base.explanation e USING (explanation_id)
JOIN base.head_prompt h USING (run_id, layer, neuron, source_layer, source_head, prompt);
COMMENT ON VIEW explanation_answers IS 'Is a head active on a held-out prompt, and what does its explanation predict? One row per explanation and held-out prompt.';
COMMENT ON COLUMN explanation_answers.is_active IS 'whether the head is active on the prompt, as in head_prompts';
COMMENT ON COLUMN explanation_answers.answer IS 'whether the head is predicted to be active on the prompt, from the explanation alone; NULL if two attempts gave no readable answer';

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
COMMENT ON VIEW base.explanation_score IS 'One row per scored explanation: the columns of explanation_scores, except for the columns of the baseline.';

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
       CASE WHEN neurons > 1 THEN greatest(mean - base.margin(error, neurons - 1), 0) END AS low, -- the CASE keeps NULL, because greatest(NULL, 0) is 0
       CASE WHEN neurons > 1 THEN least(mean + base.margin(error, neurons - 1), 1) END AS high
FROM grouped;
COMMENT ON VIEW explanation_means IS 'How well do explanations predict, on average, on which prompts a head is active? One row per run, method, language model, version of the language model''s prompt, kind of neuron (next-token or baseline) and score.';
COMMENT ON COLUMN explanation_means.is_baseline IS 'whether the mean is over baseline neurons; otherwise over next-token neurons';
COMMENT ON COLUMN explanation_means.figure IS 'name of the score in explanation_scores that is averaged: balanced_accuracy, precision, npv or f1';
COMMENT ON COLUMN explanation_means.heads IS 'number of explanations over which the score is averaged, one per head. An explanation counts if it has answers both for prompts on which the head is active and for others, and if its score is defined';
COMMENT ON COLUMN explanation_means.neurons IS 'number of neurons to which the explained heads belong. This is the sample size for the interval, because the heads of a neuron share the neuron''s prompts';
COMMENT ON COLUMN explanation_means.active_prompts IS 'number of held-out prompts with an answer on which the head is active, summed over the heads';
COMMENT ON COLUMN explanation_means.inactive_prompts IS 'number of held-out prompts with an answer on which the head is not active, summed over the heads';
COMMENT ON COLUMN explanation_means.mean IS 'mean of the score (see figure) over the explanations, 0 to 1';
COMMENT ON COLUMN explanation_means.error IS 'standard error of the mean, clustered by neuron, but at least the error that the small number of prompts alone causes; NULL for a single neuron';
COMMENT ON COLUMN explanation_means.low IS 'lower end of the 95 % confidence interval of the mean: Student''s t with neurons − 1 degrees of freedom, cut to the range 0 to 1';
COMMENT ON COLUMN explanation_means.high IS 'upper end of the 95 % confidence interval of the mean: Student''s t with neurons − 1 degrees of freedom, cut to the range 0 to 1';

CREATE VIEW explanation_scores AS
SELECT s.*, b.mean AS baseline, b.error AS baseline_error, b.low AS baseline_low, b.high AS baseline_high,
       b.heads AS baseline_heads, b.neurons AS baseline_neurons
FROM base.explanation_score s
LEFT JOIN explanation_means b
  ON b.is_baseline AND b.figure = 'balanced_accuracy' AND b.run_id = s.run_id AND b.method = s.method
 AND b.language_model IS NOT DISTINCT FROM s.language_model AND b.prompt_version IS NOT DISTINCT FROM s.prompt_version;
COMMENT ON VIEW explanation_scores IS 'Does an explanation predict on which held-out prompts the head is active, and is it better than the explanations of baseline neurons? One row per scored explanation, computed from explanation_answers. `Store.explanations` and `annotate explain` add 95 % confidence intervals, which are computed by random sampling, and whether the score beats the baseline.';
COMMENT ON COLUMN explanation_scores.is_baseline IS 'whether the neuron is a baseline neuron. The columns whose names begin with baseline are about all baseline neurons of the run, not about this neuron';
COMMENT ON COLUMN explanation_scores.true_active IS 'number of held-out prompts on which the head is active and predicted to be active';
COMMENT ON COLUMN explanation_scores.false_active IS 'number of held-out prompts on which the head is not active but predicted to be active';
COMMENT ON COLUMN explanation_scores.true_inactive IS 'number of held-out prompts on which the head is not active and predicted not to be active';
COMMENT ON COLUMN explanation_scores.false_inactive IS 'number of held-out prompts on which the head is active but predicted not to be active';
COMMENT ON COLUMN explanation_scores.unanswered IS 'number of held-out prompts for which the language model gave no readable answer; no score includes these prompts';
COMMENT ON COLUMN explanation_scores.active_prompts IS 'number of held-out prompts with an answer on which the head is active; it is the denominator of the true positive rate (TPR)';
COMMENT ON COLUMN explanation_scores.inactive_prompts IS 'number of held-out prompts with an answer on which the head is not active; it is the denominator of the true negative rate (TNR)';
COMMENT ON COLUMN explanation_scores.balanced_accuracy IS 'balanced accuracy, (true positive rate + true negative rate) / 2, 0 to 1, where chance is 0.5; NULL until both active and inactive prompts have an answer';
COMMENT ON COLUMN explanation_scores.precision IS 'precision: of the held-out prompts on which the head is predicted to be active, the fraction on which it is active; NULL if there are no such prompts';
COMMENT ON COLUMN explanation_scores.npv IS 'negative predictive value: of the held-out prompts on which the head is predicted not to be active, the fraction on which it is not active; NULL if there are no such prompts';
COMMENT ON COLUMN explanation_scores.f1 IS 'F1 score, the harmonic mean of precision and true positive rate, 0 to 1';
COMMENT ON COLUMN explanation_scores.baseline IS 'mean balanced accuracy over the run''s explanations of baseline neurons by the same method, language model and prompt version; NULL if no such explanation was scored';
COMMENT ON COLUMN explanation_scores.baseline_error IS 'standard error of the mean in the column baseline, as in explanation_means.error; NULL for a single baseline neuron';
COMMENT ON COLUMN explanation_scores.baseline_low IS 'lower end of the 95 % confidence interval of the mean in the column baseline';
COMMENT ON COLUMN explanation_scores.baseline_high IS 'upper end of the 95 % confidence interval of the mean in the column baseline';
COMMENT ON COLUMN explanation_scores.baseline_heads IS 'number of explanations over which the mean in the column baseline is taken';
COMMENT ON COLUMN explanation_scores.baseline_neurons IS 'number of baseline neurons over which the mean in the column baseline is taken';

CREATE VIEW published_scores AS
SELECT * FROM (VALUES ('Pythia-160m', false, 0.621::DOUBLE), ('GPT-2 small', false, 0.650), ('GPT-2 medium', false, 0.610),
                      ('GPT-2 large', false, 0.575), ('GPT-2 large', true, 0.558)) p(model, is_baseline, balanced_accuracy);
COMMENT ON VIEW published_scores IS 'Which balanced accuracies did Neo, Cohen and Barez (2024) publish for explanations by a language model? One row per model and kind of neuron (next-token neurons, or neurons drawn at random).';
COMMENT ON COLUMN published_scores.is_baseline IS 'whether the neurons were drawn at random';
COMMENT ON COLUMN published_scores.balanced_accuracy IS 'mean balanced accuracy of the explanations of Neo, Cohen and Barez (2024), computed as in explanation_scores; the store does not have the number of heads over which they averaged';

-- 12. Ablations of neurons and heads at requested positions and over samples ----------------------

CREATE TYPE replacement AS ENUM ('zero', 'mean', 'resample');

CREATE TABLE base.ablation_effect (
    run_id          INTEGER     NOT NULL,
    position_id     BIGINT      NOT NULL,
    units           VARCHAR     NOT NULL,
    at_position_id  BIGINT,
    replaced_by     replacement NOT NULL,
    draws           USMALLINT   NOT NULL,
    seed            INTEGER     NOT NULL,
    target_token_id INTEGER     NOT NULL,
    minus_token_id  INTEGER,
    logit           DOUBLE      NOT NULL,
    ablated_logit   DOUBLE      NOT NULL,
    standard_error  DOUBLE,
    direct_effect   DOUBLE      NOT NULL,
    logprob         DOUBLE,
    ablated_logprob DOUBLE,
    target_rank     INTEGER,
    ablated_rank    DOUBLE,
    kl              DOUBLE      NOT NULL
);
COMMENT ON TABLE base.ablation_effect IS 'One row per ablation and target token for which `annotate ablate` was run. An ablation is a position, a set of heads and neurons, and the replacement of their outputs.';
INSERT INTO base.catalogue VALUES ('ablation_effect', 'run', ['run_id', 'position_id', 'units', 'at_position_id', 'replaced_by', 'draws', 'seed', 'target_token_id', 'minus_token_id'], [], false, NULL);

CREATE VIEW ablation_effects AS
SELECT e.run_id, e.position_id, e.units, e.at_position_id, e.replaced_by, e.draws, e.seed,
       e.target_token_id, t.token AS target_token, e.minus_token_id, m.token AS minus_token,
       e.logit, e.ablated_logit, e.logit - e.ablated_logit AS total_effect, e.standard_error, e.direct_effect,
       e.logprob, e.ablated_logprob, e.target_rank, e.ablated_rank, e.kl
FROM base.ablation_effect e JOIN base.run r USING (run_id) JOIN base.model o USING (model_id)
LEFT JOIN base.token t ON t.tokenizer_id = o.tokenizer_id AND t.token_id = e.target_token_id
LEFT JOIN base.token m ON m.tokenizer_id = o.tokenizer_id AND m.token_id = e.minus_token_id;
COMMENT ON VIEW ablation_effects IS 'How does this prediction change if the outputs of these units (heads and neurons) are replaced? One row per position, set of units, replacement and target for which `annotate ablate` was run. The model runs again with the replaced outputs, so total_effect includes the changes of later components and of the final scale σ.';
COMMENT ON COLUMN ablation_effects.units IS 'names of the units (heads and neurons) that are ablated together, joined by +, such as L3H2+L3N7; L3attn stands for all heads of a layer and L3mlp for all its neurons. The biases b_O (with the value biases) and b_out are not ablated';
COMMENT ON COLUMN ablation_effects.at_position_id IS 'position_id of the token at which the outputs are replaced; NULL if they are replaced at all tokens of the window';
COMMENT ON COLUMN ablation_effects.replaced_by IS 'what replaces the outputs. zero: 0; mean: their mean over positions of the run; resample: their values at a random position of the run';
COMMENT ON COLUMN ablation_effects.draws IS 'number of random draws of the replacement over which the values with the ablation are averaged; 1 if replaced_by is zero or mean';
COMMENT ON COLUMN ablation_effects.seed IS 'random seed that chooses the positions from which the replacements mean and resample take their values';
COMMENT ON COLUMN ablation_effects.target_token_id IS 'id of the target token, whose logit is measured';
COMMENT ON COLUMN ablation_effects.minus_token_id IS 'id of the token whose logit is subtracted from the target token''s logit; NULL if the target is one logit';
COMMENT ON COLUMN ablation_effects.logit IS 'centred logit of the target token without the ablation, before a soft-cap; if minus_token_id is set, the difference of the two tokens'' logits';
COMMENT ON COLUMN ablation_effects.ablated_logit IS 'centred logit of the target token with the ablation, before a soft-cap; if minus_token_id is set, the difference of the two tokens'' logits';
COMMENT ON COLUMN ablation_effects.total_effect IS 'logit − ablated_logit, in logits. It includes the direct effect, effects through later components, and the change of the final scale σ';
COMMENT ON COLUMN ablation_effects.standard_error IS 'standard error of total_effect over the draws, in logits; NULL with one draw';
COMMENT ON COLUMN ablation_effects.direct_effect IS 'direct effect of the original outputs at the position itself, minus the direct effect of their replacements, in logits; 0 if only outputs at an earlier token are replaced';
COMMENT ON COLUMN ablation_effects.logprob IS 'log-probability of the target token without the ablation, in nats; NULL if the target is the difference of two logits (minus_token_id)';
COMMENT ON COLUMN ablation_effects.ablated_logprob IS 'log-probability of the target token with the ablation, in nats; NULL if the target is the difference of two logits (minus_token_id)';
COMMENT ON COLUMN ablation_effects.target_rank IS 'rank of the target token without the ablation, 1 for the most likely token; NULL if the target is the difference of two logits (minus_token_id)';
COMMENT ON COLUMN ablation_effects.ablated_rank IS 'rank of the target token with the ablation, averaged over the draws; NULL if the target is the difference of two logits (minus_token_id)';
COMMENT ON COLUMN ablation_effects.kl IS 'Kullback-Leibler divergence KL(P ‖ Q) over the whole vocabulary, in nats, where P is the predicted distribution without the ablation and Q the one with it';

CREATE TYPE effect_method AS ENUM ('attribution', 'ablation');

CREATE TABLE base.unit_effect (
    run_id          INTEGER       NOT NULL,
    kind            unit_kind     NOT NULL,
    layer           UTINYINT      NOT NULL,
    unit            UINTEGER      NOT NULL,
    effect_method   effect_method NOT NULL,
    replaced_by     replacement   NOT NULL,
    sample          INTEGER       NOT NULL,
    seed            INTEGER       NOT NULL,
    is_random       BOOLEAN,
    positions       INTEGER       NOT NULL,
    documents       INTEGER       NOT NULL,
    mean_direct     DOUBLE        NOT NULL,
    mean_abs_direct DOUBLE        NOT NULL,
    mean_total      DOUBLE        NOT NULL,
    mean_abs_total  DOUBLE        NOT NULL,
    total_low       DOUBLE,
    total_high      DOUBLE,
    p               DOUBLE,
    q               DOUBLE,
    correlation     DOUBLE,
    same_sign       DOUBLE
);
COMMENT ON TABLE base.unit_effect IS 'One row per unit (head or neuron) and method (attribution or ablation) for which `annotate effects` was run: direct and total effects of the unit on the next token, averaged over a sample of the run''s positions.';
INSERT INTO base.catalogue VALUES ('unit_effect', 'run', ['run_id', 'kind', 'layer', 'unit', 'effect_method', 'replaced_by', 'sample', 'seed'], ['effect_method', 'kind', 'layer', 'unit'], false, NULL);

CREATE VIEW unit_effects AS
SELECT * FROM base.unit_effect;
COMMENT ON VIEW unit_effects IS 'How large are the direct and the total effects of each head and neuron on the next token, over a sample of the run? One row per unit (head or neuron) and effect_method for which `annotate effects` was run. A total effect is the next token''s centred logit minus the same logit with the unit''s output replaced at all tokens of the window.';
COMMENT ON COLUMN unit_effects.unit IS 'number of the head or neuron in its layer, from 0';
COMMENT ON COLUMN unit_effects.effect_method IS 'how total effects were computed. attribution: attribution patching, the first-order estimate from one backward pass; ablation: the exact effect, from running the model with the unit ablated';
COMMENT ON COLUMN unit_effects.replaced_by IS 'what replaces the unit''s outputs. zero: 0; mean: their mean over the windows of the sample';
COMMENT ON COLUMN unit_effects.sample IS 'requested number of sampled positions';
COMMENT ON COLUMN unit_effects.seed IS 'random seed that chooses the positions of the sample, and the units that are drawn at random (is_random)';
COMMENT ON COLUMN unit_effects.is_random IS 'whether the unit was drawn at random among all units of its kind; otherwise it was chosen for its large estimated total effect. NULL if effect_method is attribution, because every unit has a row then';
COMMENT ON COLUMN unit_effects.positions IS 'number of positions (n), drawn at random among the run''s positions that have a next token';
COMMENT ON COLUMN unit_effects.documents IS 'number of documents that contain the sampled positions';
COMMENT ON COLUMN unit_effects.mean_direct IS 'mean over the sampled positions, in logits, of the direct effect of the unit''s output minus the direct effect of its replacement';
COMMENT ON COLUMN unit_effects.mean_abs_direct IS 'mean over the sampled positions, in logits, of the absolute value of a difference: the direct effect of the unit''s output minus the direct effect of its replacement';
COMMENT ON COLUMN unit_effects.mean_total IS 'mean total effect over the sampled positions, in logits';
COMMENT ON COLUMN unit_effects.mean_abs_total IS 'mean absolute total effect over the sampled positions, in logits';
COMMENT ON COLUMN unit_effects.total_low IS 'lower end of the 95 % bootstrap interval of mean_total over documents, in logits; NULL with fewer than two documents';
COMMENT ON COLUMN unit_effects.total_high IS 'upper end of the 95 % bootstrap interval of mean_total over documents, in logits; NULL with fewer than two documents';
COMMENT ON COLUMN unit_effects.p IS 'two-sided p-value of the hypothesis that the mean total effect is 0, from a t-test with the bootstrap standard error over documents; NULL with fewer than two documents';
COMMENT ON COLUMN unit_effects.q IS 'smallest false discovery rate at which the unit is significant: p adjusted over all units of its kind by the method of Benjamini and Hochberg (1995); NULL if effect_method is ablation, because only a few chosen units are ablated';
COMMENT ON COLUMN unit_effects.correlation IS 'Pearson''s r of direct effect and total effect over the positions; NULL if either effect is constant';
COMMENT ON COLUMN unit_effects.same_sign IS 'fraction of positions at which direct and total effect have the same sign';

CREATE TABLE base.contrast (
    run_id              INTEGER NOT NULL,
    document_id         BIGINT  NOT NULL,
    position_id         BIGINT  NOT NULL,
    answer_token_id     INTEGER NOT NULL,
    distractor_token_id INTEGER NOT NULL,
    logit_difference    DOUBLE  NOT NULL,
    answer_logprob      DOUBLE  NOT NULL,
    distractor_logprob  DOUBLE  NOT NULL,
    answer_rank         INTEGER NOT NULL,
    embed               DOUBLE  NOT NULL,
    pos_embed           DOUBLE,
    final_bias          DOUBLE  NOT NULL,
    size                DOUBLE  NOT NULL
);
COMMENT ON TABLE base.contrast IS 'One row per document with an answer and a distractor: one prediction, whose difference of logits (answer − distractor) is decomposed. The columns embed, pos_embed and final_bias are terms of the difference. size: the sum of the absolute values of all terms, in logits; rounding errors are proportional to it.';
INSERT INTO base.catalogue VALUES ('contrast', 'run', ['run_id', 'document_id'], ['document_id'], false, NULL);

CREATE TABLE base.contrast_layer (
    run_id        INTEGER  NOT NULL,
    document_id   BIGINT   NOT NULL,
    layer         UTINYINT NOT NULL,
    attn          DOUBLE   NOT NULL,
    mlp           DOUBLE   NOT NULL,
    attn_bias     DOUBLE   NOT NULL,
    mlp_bias      DOUBLE   NOT NULL,
    mlp_remainder DOUBLE   NOT NULL,
    neuron_limit  DOUBLE   NOT NULL
);
COMMENT ON TABLE base.contrast_layer IS 'One row per contrast and layer: direct effects on the answer minus those on the distractor, in logits. attn: the sum over the layer''s heads and attention bias. mlp: the sum over its neurons and MLP bias. mlp_remainder: the sum over the neurons without a row in base.contrast_neuron. neuron_limit: the largest possible |effect| of one of these neurons; 0 if there are none.';
INSERT INTO base.catalogue VALUES ('contrast_layer', 'run', ['run_id', 'document_id', 'layer'], ['document_id', 'layer'], false, NULL);

CREATE TABLE base.contrast_head (
    run_id      INTEGER  NOT NULL,
    document_id BIGINT   NOT NULL,
    layer       UTINYINT NOT NULL,
    head        UTINYINT NOT NULL,
    effect      DOUBLE   NOT NULL
);
COMMENT ON TABLE base.contrast_head IS 'One row per contrast and head. effect: direct effect of the head on the answer minus that on the distractor, in logits.';
INSERT INTO base.catalogue VALUES ('contrast_head', 'run', ['run_id', 'document_id', 'layer', 'head'], ['layer', 'head', 'document_id'], false, NULL);

CREATE TABLE base.contrast_neuron (
    run_id      INTEGER  NOT NULL,
    document_id BIGINT   NOT NULL,
    layer       UTINYINT NOT NULL,
    neuron      UINTEGER NOT NULL,
    activation  DOUBLE   NOT NULL,
    effect      DOUBLE   NOT NULL
);
COMMENT ON TABLE base.contrast_neuron IS 'One row per contrast and neuron, for the neurons of each layer with the largest |effect|. effect: direct effect of the neuron on the answer minus that on the distractor, in logits.';
INSERT INTO base.catalogue VALUES ('contrast_neuron', 'run', ['run_id', 'document_id', 'layer', 'neuron'], ['layer', 'neuron', 'document_id'], false, NULL);

CREATE TABLE base.contrast_source (
    run_id             INTEGER  NOT NULL,
    document_id        BIGINT   NOT NULL,
    layer              UTINYINT NOT NULL,
    head               UTINYINT NOT NULL,
    source_position_id BIGINT   NOT NULL,
    attention          DOUBLE   NOT NULL,
    effect             DOUBLE   NOT NULL
);
COMMENT ON TABLE base.contrast_source IS 'One row per contrast, head and source position, for the pairs of head and source with the largest |effect| in the contrast. effect: direct effect on the answer minus that on the distractor, in logits, of what the head reads from the source.';
INSERT INTO base.catalogue VALUES ('contrast_source', 'run', ['run_id', 'document_id', 'layer', 'head', 'source_position_id'], ['document_id', 'layer', 'head', 'source_position_id'], false, NULL);

CREATE VIEW contrasts AS
SELECT c.run_id, c.document_id, c.position_id, c.answer_token_id, a.token AS answer, c.distractor_token_id, b.token AS distractor,
       c.logit_difference, c.logit_difference > 0 AS is_right, c.answer_logprob, c.distractor_logprob, c.answer_rank, d.metadata
FROM base.contrast c JOIN base.run r USING (run_id) JOIN base.model m USING (model_id) JOIN base.document d USING (document_id)
LEFT JOIN base.token a ON a.tokenizer_id = m.tokenizer_id AND a.token_id = c.answer_token_id
LEFT JOIN base.token b ON b.tokenizer_id = m.tokenizer_id AND b.token_id = c.distractor_token_id;
COMMENT ON VIEW contrasts IS 'How does the model choose between an answer and a distractor? One row per document of a run that was ingested with --answer-column and --distractor-column. Join it with contrast_components, contrast_heads, contrast_neurons or contrast_sources on run_id and document_id.';
COMMENT ON COLUMN contrasts.position_id IS 'position whose prediction is decomposed: the last position of the document or, with --answer-position, the last position whose token ends within the first n characters, where n is the value of that metadata column';
COMMENT ON COLUMN contrasts.logit_difference IS 'logit of the answer minus logit of the distractor, before a soft-cap';
COMMENT ON COLUMN contrasts.is_right IS 'whether the logit of the answer is higher than that of the distractor';
COMMENT ON COLUMN contrasts.answer_logprob IS 'log-probability of the answer, in nats';
COMMENT ON COLUMN contrasts.distractor_logprob IS 'log-probability of the distractor, in nats';
COMMENT ON COLUMN contrasts.answer_rank IS 'rank of the answer among real tokens (padding ids excluded); 1 is the most likely token';
COMMENT ON COLUMN contrasts.metadata IS 'other columns of the document, as JSON; for example, metadata->>''template'' groups the contrasts by template';

CREATE VIEW contrast_components AS
SELECT run_id, document_id, NULL::UTINYINT AS layer, 'embed'::component AS component, embed AS effect FROM base.contrast
UNION ALL
SELECT run_id, document_id, NULL, 'pos_embed'::component, pos_embed FROM base.contrast WHERE pos_embed IS NOT NULL
UNION ALL
SELECT run_id, document_id, layer, 'attn'::component, attn FROM base.contrast_layer
UNION ALL
SELECT run_id, document_id, layer, 'mlp'::component, mlp FROM base.contrast_layer
UNION ALL
SELECT run_id, document_id, NULL, 'final_bias'::component, final_bias FROM base.contrast;
COMMENT ON VIEW contrast_components IS 'What is the direct effect of each component on the difference of two logits (answer − distractor)? One row per contrast (a row of contrasts) and component. The effects of a contrast sum to its logit_difference.';
COMMENT ON COLUMN contrast_components.layer IS 'layer of the component; NULL for embed, pos_embed and final_bias';
COMMENT ON COLUMN contrast_components.effect IS 'direct effect of the component on the answer minus its direct effect on the distractor, in logits';

CREATE VIEW contrast_heads AS
SELECT run_id, document_id, layer, head, effect FROM base.contrast_head;
COMMENT ON VIEW contrast_heads IS 'What is the direct effect of each head on the difference of two logits (answer − distractor)? One row per contrast (a row of contrasts) and head. The heads of a layer and its attention bias (contrast_details.attn_bias) sum to the layer''s component attn in contrast_components.';
COMMENT ON COLUMN contrast_heads.effect IS 'direct effect of the head on the answer minus its direct effect on the distractor, in logits';

CREATE VIEW contrast_neurons AS
SELECT run_id, document_id, layer, neuron, activation, effect FROM base.contrast_neuron;
COMMENT ON VIEW contrast_neurons IS 'What is the direct effect of a neuron on the difference of two logits (answer − distractor)? One row per contrast (a row of contrasts) and neuron, for the neurons of each layer with the largest |effect|. For the other neurons, contrast_details has the sum of their effects and an upper bound of each |effect|.';
COMMENT ON COLUMN contrast_neurons.activation IS 'activation of the neuron (hook_post) at the position whose prediction is decomposed';
COMMENT ON COLUMN contrast_neurons.effect IS 'direct effect of the neuron on the answer minus its direct effect on the distractor, in logits';

CREATE VIEW contrast_sources AS
SELECT s.run_id, s.document_id, s.layer, s.head, s.source_position_id, p.token AS source_token, s.attention, s.effect
FROM base.contrast_source s LEFT JOIN positions p ON p.run_id = s.run_id AND p.position_id = s.source_position_id;
COMMENT ON VIEW contrast_sources IS 'How much does a head add to the difference of two logits (answer − distractor) by what it reads from one token? One row per contrast (a row of contrasts), head and source, for the 24 pairs of head and source with the largest |effect| in the contrast.';
COMMENT ON COLUMN contrast_sources.attention IS 'attention probability that the head gives to the source at the position whose prediction is decomposed';
COMMENT ON COLUMN contrast_sources.effect IS 'direct effect of what the head reads from this source: its effect on the answer minus its effect on the distractor, in logits';

CREATE VIEW contrast_details AS
SELECT run_id, document_id, layer, attn_bias, mlp_bias, mlp_remainder, neuron_limit FROM base.contrast_layer;
COMMENT ON VIEW contrast_details IS 'Which terms of the difference of two logits (answer − distractor) are neither heads nor stored neurons? One row per contrast (a row of contrasts) and layer.';
COMMENT ON COLUMN contrast_details.attn_bias IS 'direct effect of b_O (with the value biases) on the answer minus its direct effect on the distractor, in logits';
COMMENT ON COLUMN contrast_details.mlp_bias IS 'direct effect of b_out on the answer minus its direct effect on the distractor, in logits';
COMMENT ON COLUMN contrast_details.mlp_remainder IS 'sum of the effects of the neurons that have no row in contrast_neurons, in logits';
COMMENT ON COLUMN contrast_details.neuron_limit IS 'largest possible |effect| of a neuron that has no row in contrast_neurons, in logits; 0 if every neuron has a row';
