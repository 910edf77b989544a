-- This file creates the tables, views and macros of a store, in numbered sections.
--
-- The tables are in the schema `base`. A new version of this file (base.version) may change their layout.
-- The views and macros for users are in the schema `main`. Their names do not change. Views and macros in `base` are
-- for internal use.
-- A direct effect is a component's term in the centred logit of a token, with the final norm's scale frozen.
-- The column `toward_next` is the direct effect on the actual next token. It is NULL at the last position of a
-- window, because this position has no next token.
-- The column `toward_top` is the direct effect on the model's top prediction.
-- Layers, heads and neurons are numbered from 0, as in TransformerLens.

CREATE SCHEMA base;

CREATE TABLE base.version (version INTEGER NOT NULL);
COMMENT ON TABLE base.version IS 'A table with one row: the version of the schema that this store has. `annotate upgrade` converts a store with an older version to the current version.';
INSERT INTO base.version VALUES (17);

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
CREATE TYPE reading AS ENUM ('pre', 'pre_linear'); -- the inputs of a neuron. `pre`: the input of the activation function (hook_pre). `pre_linear`: in a gated MLP, the input by which the function's result is multiplied (hook_pre_linear)
CREATE TYPE attention_behaviour AS ENUM ('self', 'previous', 'first', 'entropy', 'duplicate', 'induction');

-- The catalogue has one row per table of the schema `base`. A row is inserted right after its table's CREATE statement.
-- From the catalogue, store/catalogue.py generates the statements that have the same form for all tables: inserts,
-- deletions, exports and checks.
CREATE TABLE base.catalogue (
    name        VARCHAR   NOT NULL,
    owner       owner     NOT NULL,
    key         VARCHAR[] NOT NULL,
    ordered_by  VARCHAR[] NOT NULL,
    is_replaced BOOLEAN   NOT NULL,
    owned       VARCHAR
);
COMMENT ON TABLE base.catalogue IS 'One row per table of the schema `base`. owner: the kind of object to which the table''s rows belong, such as a run; the rows are deleted and exported together with this object. key: the columns that identify a row. ordered_by: the columns by which a commit sorts the rows that it adds; an empty list if the rows are stored in the order in which they arrive. is_replaced: whether a commit deletes the object''s earlier rows of this table before it adds new rows. owned: the SQL condition that selects the rows of one object, whose id is the parameter $id. If owned is NULL, the table has a column with the object''s id, such as run_id, and the condition is run_id = $id.';
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
COMMENT ON TABLE base.checksum IS 'One row per object (such as a run), table and shard: the number of rows and a checksum of their content. owner, owner_id: the kind of the object, and its id. name: the table. shard: the number of the shard, which is the part of a run that one transaction writes; 0 for a table whose rows do not belong to shards. The checksum does not depend on the order of the rows (store/checksum.py). It is written by the same transaction as the rows.';
INSERT INTO base.catalogue VALUES ('checksum', 'store', ['owner', 'owner_id', 'name', 'shard'], [], false, NULL);

-- Constants of the storage layout, such as the number of characters in a passage. They are defined only here. Python
-- code takes them from store/layout.py, which reads them from this file.
CREATE MACRO base.positions_a_run() AS 1000000000000; -- maximum number of positions in a run; position_id = (run_id - 1) * positions_a_run + index of the position in the run
CREATE MACRO base.documents_a_corpus() AS 1000000000; -- maximum number of documents in a corpus; document_id = (corpus_id - 1) * documents_a_corpus + index of the document in the corpus
CREATE MACRO base.passages_a_document() AS 262144; -- maximum number of passages in a document; passage_id = document_id * passages_a_document + index of the passage in the document
CREATE MACRO base.passage_characters() AS 8192; -- number of characters from the start of a passage to the start of the next passage
CREATE MACRO base.passage_reach() AS 4096; -- number of characters from the start of the next passage that a passage also contains, at its end
CREATE MACRO base.neurons_a_part() AS 128; -- number of neurons whose codes are in one row of base.neuron_code
CREATE MACRO base.code_of_kept() AS 31; -- the code in base.neuron_code which means that the neuron has a row in base.neuron instead
CREATE MACRO base.steps_a_logit() AS 8388608; -- number of steps per logit (2^23); the terms of a logit are stored as whole numbers of these steps
CREATE MACRO base.steps_a_value() AS 67108864; -- number of steps per unit (2^26); sums of activations or of direct effects are stored as whole numbers of these steps
CREATE MACRO base.steps_a_square() AS 1048576; -- number of steps per unit (2^20); sums of squares are stored as whole numbers of these steps
CREATE MACRO base.steps_of_attention() AS 1073741824; -- number of steps per unit (2^30); sums of attention probabilities or of entropies are stored as whole numbers of these steps

-- 1. Provenance and text: tables of tokenizers, models, corpora, documents and runs --------------

CREATE TABLE base.tokenizer (tokenizer_id INTEGER NOT NULL, sha256 VARCHAR NOT NULL, spells VARCHAR NOT NULL);
COMMENT ON TABLE base.tokenizer IS 'One row per tokenizer; models with the same tokenizer share its row. spells: what one gets by joining the bytes of a document''s tokens. `text`: the unchanged document; `NFC`: the document after the Unicode normalisation NFC; `other`: the document after another change, such as lower-casing, an added space or dropped characters.';
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
COMMENT ON TABLE base.model IS 'One row per model. Two models are different if their weights, configurations or tokenizers differ. They are also different if both have a revision (of the Hugging Face hub) and the revisions differ. config: the entries of config.json that affect stored values, as JSON; NULL for a model that was stored under schema version 8, which did not record them. model, revision: the name and revision under which the model was first stored. revision is NULL for a model that was read from a folder. If a later command reads the same weights from the hub, the row gets the name and revision of that command.';
INSERT INTO base.catalogue VALUES ('model', 'model', ['model_id'], [], false, NULL);

CREATE TABLE base.layer_bias (
    model_id INTEGER  NOT NULL,
    layer    UTINYINT NOT NULL,
    token_id INTEGER  NOT NULL,
    attn     FLOAT    NOT NULL,
    mlp      FLOAT    NOT NULL
);
COMMENT ON TABLE base.layer_bias IS 'One row per model, layer and token: the effects of the layer''s biases on the token''s logit before the division by the final scale. attn: the inner product of the attention bias b_O, which includes the folded value biases, with the token''s column of W_U. mlp: the inner product of the MLP bias b_out with the same column. The direct effect of a bias at a position is this value divided by the position''s final scale σ. The value itself does not depend on the position, so it is stored only once per token.';
INSERT INTO base.catalogue VALUES ('layer_bias', 'model', ['model_id', 'layer', 'token_id'], ['token_id', 'layer'], false, NULL);

CREATE TABLE base.neuron_direction (
    model_id INTEGER   NOT NULL,
    layer    UTINYINT  NOT NULL,
    neuron   UINTEGER  NOT NULL,
    W_out    FLOAT[]   NOT NULL
);
COMMENT ON TABLE base.neuron_direction IS 'One row per neuron, for models that have a run with --keep-neurons all. Such a run stores every neuron at every position, and the neurons'' direct effects are computed from these rows. W_out: the neuron''s row of the matrix W_out, which is the vector that the neuron writes to the residual stream per unit of activation.';
INSERT INTO base.catalogue VALUES ('neuron_direction', 'model', ['model_id', 'layer', 'neuron'], ['layer', 'neuron'], false, NULL);

CREATE TABLE base.token_direction (
    model_id INTEGER NOT NULL,
    token_id INTEGER NOT NULL,
    u        FLOAT[] NOT NULL
);
COMMENT ON TABLE base.token_direction IS 'One row per token that is a next token or a top prediction in a run with --keep-neurons all. Such a run stores every neuron at every position, and the neurons'' direct effects are computed from these rows. u: the token''s column of W_U; in a model with LayerNorm, the mean of the column''s d_model entries is subtracted. The direct effect of a neuron on the token is the neuron''s activation times the inner product of u with the neuron''s row of W_out, divided by the final scale σ.';
INSERT INTO base.catalogue VALUES ('token_direction', 'model', ['model_id', 'token_id'], ['token_id'], false, NULL);

CREATE TABLE base.corpus (
    corpus_id  INTEGER NOT NULL,
    sha256     VARCHAR NOT NULL,
    documents  BIGINT  NOT NULL,
    characters BIGINT  NOT NULL,
    sources    VARCHAR[] NOT NULL
);
COMMENT ON TABLE base.corpus IS 'One row per corpus. sha256: a hash over the text and metadata of all documents, in the order of the documents.';
INSERT INTO base.catalogue VALUES ('corpus', 'corpus', ['corpus_id'], [], false, NULL);

CREATE TABLE base.document (
    corpus_id   INTEGER NOT NULL,
    document_id BIGINT  NOT NULL,
    source      VARCHAR NOT NULL,
    text        VARCHAR NOT NULL USING COMPRESSION uncompressed, -- with zstd compression, DuckDB's default, reading a context takes five times as long
    sha256      VARCHAR NOT NULL,
    metadata    JSON    NOT NULL
);
COMMENT ON TABLE base.document IS 'One row per document of a corpus. The row is stored as soon as an ingest reaches the document. document_id is unique in the whole store.';
INSERT INTO base.catalogue VALUES ('document', 'corpus', ['document_id'], ['document_id'], false, NULL);
CREATE INDEX document_by_id ON base.document (document_id);

CREATE TABLE base.passage (
    passage_id BIGINT  NOT NULL,
    text       VARCHAR NOT NULL USING COMPRESSION uncompressed
);
COMMENT ON TABLE base.passage IS 'One row per passage. A document is divided into passages of 8,192 characters. text: the characters of the passage, followed by the first 4,096 characters of the next passage. With passages, the text around a position can be read without reading the document from its start.';
INSERT INTO base.catalogue VALUES ('passage', 'corpus', ['passage_id'], ['passage_id'], false, 'base.document_of_passage(passage_id) IN (SELECT document_id FROM base.document WHERE corpus_id = $id)');
CREATE INDEX passage_by_id ON base.passage (passage_id);
CREATE MACRO base.passage_of(place) AS place // base.passage_characters();
CREATE MACRO base.passage_id(document_id, place) AS document_id * base.passages_a_document() + base.passage_of(place);
CREATE MACRO base.document_of_passage(passage_id) AS passage_id // base.passages_a_document();
CREATE MACRO base.excerpt(passage, first, characters) AS substring(passage, first % base.passage_characters() + 1, characters); -- `characters` must be at most base.passage_reach(), else the excerpt may be cut at the end of the passage
-- base.span returns the characters of a document from index `low` up to, but not including, index `high`.
-- A document is stored in passages (base.passage). If these characters are in several passages, base.span joins them.
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
COMMENT ON TABLE base.run IS 'One row per run. identity: a sha256 hash of everything that determines the stored values of the run. Names do not count: neither the model''s name and revision nor the location of the corpus is part of the hash.';
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
COMMENT ON TABLE base.shard IS 'One row per committed shard. A shard is the positions that one transaction writes, and this transaction also writes the shard''s row. The row has the number of rows that the shard added to each table, and the place in the corpus where the next shard starts.';
INSERT INTO base.catalogue VALUES ('shard', 'run', ['run_id', 'shard'], [], false, NULL);

CREATE TABLE base.part (
    run_id            INTEGER NOT NULL,
    part              INTEGER NOT NULL,
    parts             INTEGER NOT NULL,
    first_shard       INTEGER NOT NULL,
    last_shard        INTEGER NOT NULL,
    first_position_id BIGINT  NOT NULL,
    last_position_id  BIGINT  NOT NULL,
    shards            INTEGER NOT NULL,
    positions         BIGINT  NOT NULL,
    plan_sha256       VARCHAR NOT NULL,
    threads           INTEGER NOT NULL,
    processor         VARCHAR NOT NULL
);
COMMENT ON TABLE base.part IS 'One row per run of which this store has only a part (`annotate ingest --part`); none for a whole run. The part has the shards from first_shard to last_shard, once all of them are committed. shards, positions: the numbers of shards and of positions of the whole run. plan_sha256: a hash of where all shards of the run begin; only parts with the same hash belong together. threads, processor: with what the values were computed. `annotate merge` makes one run of all parts.';
INSERT INTO base.catalogue VALUES ('part', 'run', ['run_id'], [], false, NULL);

-- 2. Terms of a prediction: tables with rows for each position -----------------------------------

-- Terms of a logit are stored as integers: as whole numbers of steps of 2^-23 logits. DuckDB compresses these integers
-- to 21 to 25 bits each; it would compress floats only to 30 bits. Every float32 number of magnitude 1 or more is a
-- multiple of 2^-23, so a term of this size is stored exactly. A smaller term is rounded.
-- The columns with such integers are embed_…, pos_embed_…, bias_…, attn_…, mlp_…, mlp_remainder_next and
-- mlp_remainder_top, and in base.head also toward_next and toward_top.
CREATE MACRO base.units(logits) AS (logits::FLOAT * base.steps_a_logit()::FLOAT)::BIGINT;
CREATE MACRO base.logits(units) AS units::FLOAT * (1 / base.steps_a_logit())::FLOAT;

-- A float32 value that is stored as a DECIMAL is rounded twice. When the value is stored, the error is at most half a
-- step of the DECIMAL. When the DECIMAL is read as float32, the error is at most the spacing of float32 numbers near the
-- value; base.float_error(value) is an upper bound of this second error. It cannot be neglected: from values of about
-- 2^13 on, the spacing is 0.001 or more, which is a whole step of a DECIMAL with three decimals.
CREATE MACRO base.float_error(value) AS abs(value) * 2.384185791015625e-07; -- the factor is 2^-22
CREATE MACRO closure_bound(terms, size) AS greatest(1e-4, (terms + 128 * size) * 5.9604644775390625e-08); -- the last factor is 2^-24
COMMENT ON MACRO closure_bound IS 'What is the largest closure error that rounding alone can explain? The closure error is the absolute difference between the sum of a position''s stored terms and the logit. The result, in logits, is max(1e-4, (terms + 128 · size) · 2^-24). terms: the number of terms in the sum; each is rounded to a multiple of 2^-23. size: the sum of the absolute values of the terms of embedding, heads, neurons and biases, in logits. Errors of float32 arithmetic grow in proportion to size. The factor 128 is generous: in all models tried, a factor of 38 was enough.';

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
COMMENT ON TABLE base.position IS 'One row per position of a run (one token in one window), sorted by position_id. embed_…, pos_embed_…, bias_…: the direct effects of the embedding, the position embedding and the final bias, in steps of 2^-23 logits. The view `positions` has the other columns and explains them.';
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
COMMENT ON TABLE base.contribution IS 'One row per position and layer, sorted by position_id. A column …_next is about the next token, a column …_top about the top prediction. attn_…, mlp_…: the direct effects of the layer''s attention and of its MLP. mlp_remainder_next, mlp_remainder_top: the direct effect of the MLP minus the direct effects of its stored neurons and of its bias. mlp_remainder_abs_…: the sum of the absolute direct effects of the neurons that are not stored. activation_bound, next_bound, top_bound: upper bounds, valid for every neuron that is not stored, of its absolute activation and of its absolute direct effects.';
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
COMMENT ON TABLE base.head IS 'One row per position, layer and head. source_offset: position_id minus the position_id of the source that the head attends to most. Within a shard, the rows are sorted by layer, head and position_id. For every second head position_id descends, because DuckDB then compresses the rows better. In this order, DuckDB finds the rows of a head quickly, and the rows of a position too, so the rows are stored only once.';
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
COMMENT ON TABLE base.head_source IS 'One row per position, head and source (a position that the head attends to), sorted by position_id. Unless a run stores all sources, a position has rows only for the pairs of head and source with the largest direct effects (--keep-sources), and the direct effects are rounded and stored in toward_next and toward_top. If a run stores all sources, the direct effects are stored unrounded, in unrounded_next and unrounded_top. Then the direct effects of a head''s sources sum to the direct effect of the head.';
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
COMMENT ON TABLE base.neuron IS 'One row per position, layer and neuron, for the strongest neurons of the layer at the position (--keep-neurons). Within a shard, the rows are sorted by layer, then by neuron (in a layer, the neurons with the most rows come first), then by position_id. For every second neuron position_id descends, because DuckDB then compresses the rows better. In this order, DuckDB finds the rows of a neuron quickly, and the rows of a position too, so the rows are stored only once.';
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
COMMENT ON TABLE base.neuron_code IS 'One row per position, layer and group of 128 neurons, only for runs with --keep-neurons all. The row has the activations of the group''s neurons, each rounded to a code. part: the index of the group in the layer. codes: one integer per neuron of the group. A code from 0 to 30 means that the neuron''s activation is `low` + `step` · code, with an error of at most `step` / 2. The code 31 means that the neuron has a row in base.neuron instead. mlp_scale: the scale of the norm after the MLP, by which the neurons'' direct effects are divided; NULL in a model without this norm. The rows are stored in the order in which they were computed, which is roughly the order of position_id.';
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
COMMENT ON TABLE base.lens IS 'One row per position and layer of a run with --lens: what the logit lens predicts from the residual stream after the layer.';
INSERT INTO base.catalogue VALUES ('lens', 'run', ['position_id', 'layer'], [], false, NULL);

-- 3. Neurons and heads over a run: tables of top-k lists, statistics and samples -----------------

CREATE TABLE base.top_candidate (
    run_id      INTEGER   NOT NULL,
    kind        unit_kind NOT NULL,
    list        unit_list NOT NULL,
    layer       UTINYINT  NOT NULL,
    unit        UINTEGER  NOT NULL,
    position_id BIGINT    NOT NULL,
    value       FLOAT     NOT NULL
);
COMMENT ON TABLE base.top_candidate IS 'One row per candidate for a top-k list of an unfinished run. A top-k list has the k positions where a neuron or head has its largest or smallest values. Each shard adds its candidates: values that may turn out to be in the final list. When the run is finished, the candidates are deleted, and the final lists are stored in base.top_entry.';
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
COMMENT ON TABLE base.top_entry IS 'One row per entry of a top-k list of a finished run, sorted by list and rank. A top-k list has the k positions where a neuron or head has its largest values (list = high) or its smallest values (list = low), or the k windows where a neuron has its largest values (list = window). The columns kind, list, layer and unit together identify one top-k list.';
INSERT INTO base.catalogue VALUES ('top_entry', 'run', ['run_id', 'kind', 'list', 'layer', 'unit', 'rank'], [], false, NULL);

CREATE TABLE base.top_source (
    run_id        INTEGER   NOT NULL,
    layer         UTINYINT  NOT NULL,
    head          UTINYINT  NOT NULL,
    position_id   BIGINT    NOT NULL,
    source_offset USMALLINT NOT NULL,
    attention     DECIMAL(5, 4) NOT NULL
);
COMMENT ON TABLE base.top_source IS 'One row per head and position, for the positions that are in a top-k list of the head, in finished runs. The row says which source the head attends to most at this position. It is a copy of columns of base.head, because base.head is too large to be searched for so few rows.';
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
COMMENT ON TABLE base.head_offset IS 'One row per head and distance, for finished runs. The distance (source_offset) is a position''s position_id minus the position_id of the source that the head attends to most. The row describes all positions where the head has this distance, without the positions of base.left_out (special tokens). positions: the number of these positions. attention: the sum of the attention probabilities of the sources. effects: the number of these positions that have a next token. effect: the sum of the head''s direct effects on the next token, in steps of 2^-23 logits. With these exact sums, a query by distance need not read base.head.';
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
COMMENT ON TABLE base.unit_stat IS 'One row per neuron or head of a run: sums over all positions committed so far. The commit of each shard replaces these rows. Before a value is added to a sum, it is rounded to a multiple of a small step, and the sum is stored as a whole number of steps. Sums of whole numbers do not depend on the order in which the values are added. The step is 2^-26 for values and direct effects (base.values_of converts a number of steps) and 2^-20 for squares (base.squares_of).';
INSERT INTO base.catalogue VALUES ('unit_stat', 'run', ['run_id', 'kind', 'layer', 'unit'], ['kind', 'layer', 'unit'], true, NULL);

CREATE TABLE base.attention_stat (
    run_id    INTEGER  NOT NULL,
    layer     UTINYINT NOT NULL,
    head      UTINYINT NOT NULL,
    behaviour attention_behaviour NOT NULL,
    total     HUGEINT  NOT NULL,
    count     BIGINT   NOT NULL
);
COMMENT ON TABLE base.attention_stat IS 'One row per head and attention behaviour, such as attention to the previous position. total: the sum of an attention probability over positions, such as the probability of the previous position; for the behaviour `entropy`, the sum of the entropy of the attention. It is stored as a whole number of steps of 2^-30 (base.attention_of converts it). count: the number of positions in the sum. The commit of each shard replaces these rows.';
INSERT INTO base.catalogue VALUES ('attention_stat', 'run', ['run_id', 'layer', 'head', 'behaviour'], [], true, NULL);

CREATE TABLE base.sample_position (run_id INTEGER NOT NULL, position_id BIGINT NOT NULL);
COMMENT ON TABLE base.sample_position IS 'One row per position in the random sample of a run. The row is stored as soon as the ingest reaches the position.';
INSERT INTO base.catalogue VALUES ('sample_position', 'run', ['run_id', 'position_id'], [], false, NULL);

CREATE TABLE base.sample_row (
    run_id      INTEGER  NOT NULL,
    kind        unit_kind NOT NULL,
    layer       UTINYINT NOT NULL,
    position_id BIGINT   NOT NULL,
    values      DECIMAL(9, 3)[] NOT NULL
);
COMMENT ON TABLE base.sample_row IS 'One row per sampled position, layer and kind of unit (neuron or head) of an unfinished run. values: one value for each neuron or head of the layer: the neuron''s activation or the head''s direct effect on the next token. When the run is finished, these rows are replaced by the rows of base.sample_unit.';
INSERT INTO base.catalogue VALUES ('sample_row', 'run', ['run_id', 'kind', 'layer', 'position_id'], [], false, NULL);

CREATE TABLE base.sample_unit (
    run_id  INTEGER   NOT NULL,
    kind    unit_kind NOT NULL,
    layer   UTINYINT  NOT NULL,
    unit    UINTEGER  NOT NULL,
    values  DECIMAL(9, 3)[] NOT NULL
);
COMMENT ON TABLE base.sample_unit IS 'One row per neuron or head of a finished run. values: one value for each sampled position, in the order of position_id: the neuron''s activation or the head''s direct effect on the next token.';
INSERT INTO base.catalogue VALUES ('sample_unit', 'run', ['run_id', 'kind', 'layer', 'unit'], ['kind', 'layer', 'unit'], false, NULL);

-- 4. Provenance and text: public views of runs, models, documents and positions ------------------

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
COMMENT ON VIEW runs IS 'Which runs does this store hold, and how was each run made? One row per run. A run is one ingest of one corpus with one model revision and one set of settings.';
COMMENT ON COLUMN runs.settings IS 'settings of the ingest that affect stored values, as JSON';
COMMENT ON COLUMN runs.processing IS 'how TransformerLens processed the weights, as JSON with true or false for each option. The options are: fold the norms, centre W_U, centre the weights that write to the residual stream, and fold the value biases into b_O';
COMMENT ON COLUMN runs.tokens IS 'number of positions (tokens in windows) that the ingest has stored so far';
COMMENT ON COLUMN runs.special_excluded IS 'number of positions that are excluded from top-k lists, statistics and the random sample because their token is special; 0 in a run with --special-in-lists';
COMMENT ON COLUMN runs.hf_difference IS 'largest difference, in nats, between the log-probabilities of this program and those of Hugging Face''s implementation of the model. This program computes them from the sum of all components. When the model is loaded, both read a text of 32 random tokens, and the log-probabilities of the 10 likeliest tokens at each position are compared. NULL for a run that was made under schema version 12 or earlier';
COMMENT ON COLUMN runs.worst_closure IS 'largest closure error of the run, in logits. The closure error is abs(sum of terms − logit). Each position has two closure errors: for the next token and for the top prediction';
COMMENT ON COLUMN runs.worst_closure_ratio IS 'largest ratio, over the run''s positions, of the closure error to closure_bound. The closure error is abs(sum of terms − logit); closure_bound is the largest closure error that rounding explains at the position. An ingest stops with an error if a ratio is above 1';

CREATE VIEW parts AS
SELECT p.run_id, p.part, p.parts, p.first_shard, p.last_shard, p.first_position_id, p.last_position_id, p.positions AS run_positions,
       coalesce(s.last_shard = p.last_shard, false) AS is_complete, p.threads, p.processor
FROM base.part p LEFT JOIN (SELECT run_id, max(shard) AS last_shard FROM base.shard GROUP BY run_id) s USING (run_id);
COMMENT ON VIEW parts IS 'Of which runs does this store hold only a part? One row per run that was made with --part; a whole run has no row. `annotate merge` makes one run of all parts.';
COMMENT ON COLUMN parts.part IS 'number of the part, from 1';
COMMENT ON COLUMN parts.parts IS 'number of parts into which the run was divided';
COMMENT ON COLUMN parts.run_positions IS 'number of positions of the whole run, all parts together';
COMMENT ON COLUMN parts.is_complete IS 'whether all positions of the part are stored';
COMMENT ON COLUMN parts.threads IS 'number of threads with which PyTorch computed the values';
COMMENT ON COLUMN parts.processor IS 'name of the processor that computed the values';

CREATE VIEW models AS
SELECT e.model_id, e.model, e.revision, e.step, e.n_layers, e.n_heads, e.d_model, e.d_head, e.d_mlp, e.d_vocab, e.n_ctx, e.parallel_residual, e.family, e.norm, e.activation,
       e.n_kv_heads, e.is_gated, e.position_embedding, e.logit_cap, e.has_post_norms
FROM base.model e;
COMMENT ON VIEW models IS 'What are the dimensions and the architecture of each model? One row per model; two revisions of a model are two rows.';
COMMENT ON COLUMN models.step IS 'training step of the checkpoint; NULL if unknown';
COMMENT ON COLUMN models.family IS 'model family, such as gpt_neox, from the entry model_type of config.json';
COMMENT ON COLUMN models.norm IS 'kind of norm that the model applies before attention, before the MLP and before the unembedding';
COMMENT ON COLUMN models.activation IS 'name of the MLP''s activation function, as in config.json but in capital letters';
COMMENT ON COLUMN models.n_kv_heads IS 'number of key-value heads. A key-value head has the keys and values that n_heads / n_kv_heads query heads share';
COMMENT ON COLUMN models.is_gated IS 'whether the MLP is gated. In a gated MLP, a neuron''s activation is act(x W_gate) · (x W_in). In any other MLP, it is act(x W_in). Here x is the input of the MLP, and act is the activation function';
COMMENT ON COLUMN models.position_embedding IS 'how the model reads the order of tokens. rotary: queries and keys are rotated by an angle that depends on the position. learned: a vector for the position (a row of W_pos) is added to the embedding. ALiBi: attention scores decrease with the distance to the source';
COMMENT ON COLUMN models.logit_cap IS 'constant c of the soft-cap of the logits; NULL for a model without a soft-cap. With a soft-cap, probabilities are the softmax of c · tanh(logit / c). The decomposed logit is the logit before the soft-cap';
COMMENT ON COLUMN models.has_post_norms IS 'whether the model has post-norms: norms that are applied to the outputs of attention and of the MLP before they are added to the residual stream. For direct effects, the scale of a post-norm is frozen at each position, like the final scale σ';
COMMENT ON COLUMN models.d_vocab IS 'number of token ids for which W_U has a column, including padding ids, which stand for no token';

CREATE VIEW vocabulary AS
SELECT m.model_id, t.token_id, t.token, t.bytes, t.is_special FROM base.token t JOIN base.model m USING (tokenizer_id);
COMMENT ON VIEW vocabulary IS 'What text does a token id stand for? One row per token of a model''s vocabulary.';
COMMENT ON COLUMN vocabulary.token IS 'readable text of the token, after the tokenizer''s normalisation (such as NFC or lower case). Bytes that are not valid UTF-8 on their own are written as \xNN';
COMMENT ON COLUMN vocabulary.bytes IS 'bytes of the text that the token stands for';
COMMENT ON COLUMN vocabulary.is_special IS 'whether the tokenizer marks the token as special (BOS, padding and similar)';

CREATE VIEW documents AS
SELECT e.corpus_id, e.document_id, e.source, e.text, e.sha256, e.metadata FROM base.document e;
COMMENT ON VIEW documents IS 'Which texts did the runs read? One row per document of a corpus.';
COMMENT ON COLUMN documents.source IS 'file from which the document was read, with the line or row in this file';
COMMENT ON COLUMN documents.metadata IS 'metadata of the document as JSON: the columns or keys that stand beside the text in the document''s source';

CREATE VIEW run_documents AS
SELECT r.run_id, e.document_id, e.source, e.text, e.metadata FROM base.run r JOIN base.document e USING (corpus_id);
COMMENT ON VIEW run_documents IS 'Which texts did this run read? One row per run and document of the run''s corpus. Join it with `positions` by run_id and document_id.';
COMMENT ON COLUMN run_documents.source IS 'file from which the document was read, with the line or row in this file';
COMMENT ON COLUMN run_documents.metadata IS 'metadata of the document as JSON; metadata_text, metadata_number and metadata_date return one of its values';

CREATE MACRO metadata_text(metadata, key) AS metadata->>('$.' || to_json(key));
COMMENT ON MACRO metadata_text IS 'The value of a key in a document''s metadata, as text; NULL if the document has no such key.';
CREATE MACRO metadata_number(metadata, key) AS TRY_CAST(metadata_text(metadata, key) AS DOUBLE);
COMMENT ON MACRO metadata_number IS 'The value of a key in a document''s metadata, as a number; NULL if there is no such key or the value is not a number.';
CREATE MACRO metadata_date(metadata, key) AS TRY_CAST(metadata_text(metadata, key) AS DATE);
COMMENT ON MACRO metadata_date IS 'The value of a key in a document''s metadata, as a date; NULL if there is no such key or the value is not a date such as 2026-12-01.';

-- base.capped returns a logit after the model's soft-cap. `logit`: the centred logit; `logit_offset`: the mean logit
-- over the vocabulary, which is added back before the cap is applied; `cap`: the cap's constant (models.logit_cap).
-- If `cap` is NULL, the model has no soft-cap, and the centred logit is returned unchanged.
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
COMMENT ON COLUMN positions.position_id IS 'id of the position, unique in the store. Within a run, the ids ascend in the order of the documents, of the windows in a document, and of the tokens in a window';
COMMENT ON COLUMN positions.window_id IS 'id of the window that the model read. Windows are counted from 0 through the whole corpus. Two runs that cut the corpus into the same windows have the same window ids';
COMMENT ON COLUMN positions.position IS 'index of the token in its window, from 0. A BOS at the start of the window has the index 0';
COMMENT ON COLUMN positions.token IS 'readable text of the token, after the tokenizer''s normalisation (such as NFC or lower case). The original spelling is in documents.text, from char_start to char_end';
COMMENT ON COLUMN positions.char_start IS 'index of the token''s first character in documents.text, from 0; NULL for a BOS that --bos added, because it is not in the text';
COMMENT ON COLUMN positions.char_end IS 'index of the first character after the token in documents.text. If several tokens encode one character together, each of them has the span of the whole character. A character that the tokenizer drops is counted as part of the token before it, so the spans of all tokens cover the whole document';
COMMENT ON COLUMN positions.next_token_id IS 'token id of the actual next token in the window; NULL at the last position of the window';
COMMENT ON COLUMN positions.top_token_id IS 'token id of the model''s top prediction. Padding ids, which stand for no token, are not considered';
COMMENT ON COLUMN positions.next_logit IS 'centred logit of the next token: its logit minus the mean logit over the vocabulary. If the model has a soft-cap, this is the logit before the soft-cap';
COMMENT ON COLUMN positions.top_logit IS 'centred logit of the top prediction: its logit minus the mean logit over the vocabulary. If the model has a soft-cap, this is the logit before the soft-cap';
COMMENT ON COLUMN positions.logit_offset IS 'mean logit over the vocabulary, in logits. The sum next_logit + logit_offset is the next token''s logit in Hugging Face''s implementation, and top_logit + logit_offset is that of the top prediction. If the model has a soft-cap (models.logit_cap), these are logits before the soft-cap';
COMMENT ON COLUMN positions.next_logprob IS 'log-probability of the next token, in nats; the loss at this position is its negative. If the model has a soft-cap (models.logit_cap), it is computed from the logits after the soft-cap';
COMMENT ON COLUMN positions.top_logprob IS 'log-probability of the top prediction, in nats. If the model has a soft-cap (models.logit_cap), it is computed from the logits after the soft-cap';
COMMENT ON COLUMN positions.next_rank IS 'rank of the next token by predicted probability; 1 is the most likely token. Padding ids, which stand for no token, are not counted';
COMMENT ON COLUMN positions.entropy IS 'entropy of the predicted distribution of the next token, in nats';
COMMENT ON COLUMN positions.final_scale IS 'scale σ of the final norm at this position; every direct effect is computed with σ frozen at this value';
COMMENT ON COLUMN positions.is_first IS 'whether the position is the first of its window. Many heads attend to the first position, whatever its token is (an attention sink). Therefore top-k lists exclude first positions unless the run has --first-in-lists';
COMMENT ON COLUMN positions.is_special IS 'whether the token is special (BOS, padding and similar). A special token is either added by --bos or, with --parse-special, read from the text. Top-k lists, statistics and the random sample exclude special tokens unless the run has --special-in-lists';
COMMENT ON COLUMN positions.context_cut IS 'whether the window starts later than its document, so that the model did not read the beginning of the document';
COMMENT ON COLUMN positions.closure_next IS 'closure error for the next token, with its sign: the sum of the stored terms minus the centred logit, in logits';
COMMENT ON COLUMN positions.closure_top IS 'closure error for the top prediction, with its sign: the sum of the stored terms minus the centred logit, in logits';
COMMENT ON COLUMN positions.source_bound IS 'upper bound, in logits, of the absolute direct effects of the pairs of head and source that have no row in head_sources at this position. It holds for the direct effects on the next token and for those on the top prediction';

CREATE VIEW base.left_out AS
SELECT p.run_id, p.position_id
FROM base.position p
JOIN base.run r USING (run_id)
JOIN base.model m USING (model_id)
JOIN base.token t ON t.tokenizer_id = m.tokenizer_id AND t.token_id = p.token_id
WHERE t.is_special AND NOT coalesce((r.settings->>'special_in_lists')::BOOLEAN, false);
COMMENT ON VIEW base.left_out IS 'One row per position that its run excludes from top-k lists, statistics and the random sample because the token is special. A run with --special-in-lists has no rows here.';

-- 5. Terms of a prediction: public views of direct effects at each position ----------------------

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
COMMENT ON VIEW contributions IS 'What is the direct effect of each component on this prediction? One row per position and component. The direct effects of all components at a position sum to the centred logit.';
COMMENT ON COLUMN contributions.layer IS 'layer of the component; NULL for embed, pos_embed and final_bias';
COMMENT ON COLUMN contributions.component IS 'name of the component. embed: the token embedding. pos_embed: the position embedding, in models that add one to the token embedding. attn: all heads of a layer and its attention bias. mlp: all neurons of a layer and its MLP bias. final_bias: the bias b_U of the unembedding';
COMMENT ON COLUMN contributions.toward_next IS 'direct effect of the component on the next token, in logits, rounded to a multiple of 2^-23 (about 1.2e-7)';
COMMENT ON COLUMN contributions.toward_top IS 'direct effect of the component on the top prediction, in logits, rounded to a multiple of 2^-23 (about 1.2e-7)';

CREATE VIEW base.bias_effect AS
SELECT p.run_id, p.position_id, t.layer, n.attn / p.final_scale AS attn_next, t.attn / p.final_scale AS attn_top,
       n.mlp / p.final_scale AS mlp_next, t.mlp / p.final_scale AS mlp_top
FROM base.position p
JOIN base.run r USING (run_id)
JOIN base.layer_bias t ON t.model_id = r.model_id AND t.token_id = p.top_token_id
LEFT JOIN base.layer_bias n ON n.model_id = r.model_id AND n.token_id = p.next_token_id AND n.layer = t.layer;
COMMENT ON VIEW base.bias_effect IS 'One row per position and layer: the direct effects of the layer''s attention bias (attn_next, attn_top) and of its MLP bias (mlp_next, mlp_top) on the next token and on the top prediction.';

CREATE VIEW contribution_details AS
SELECT e.run_id, e.position_id, e.layer, 'attn_bias'::component_detail AS component,
       e.attn_next AS toward_next, e.attn_top AS toward_top FROM base.bias_effect e
UNION ALL
SELECT e.run_id, e.position_id, e.layer, 'mlp_bias'::component_detail, e.mlp_next, e.mlp_top FROM base.bias_effect e
UNION ALL
SELECT e.run_id, e.position_id, e.layer, 'mlp_remainder'::component_detail, base.logits(e.mlp_remainder_next), base.logits(e.mlp_remainder_top) FROM base.contribution e
UNION ALL
SELECT e.run_id, e.position_id, e.layer, 'mlp_remainder_abs'::component_detail, e.mlp_remainder_abs_next::FLOAT, e.mlp_remainder_abs_top::FLOAT FROM base.contribution e;
COMMENT ON VIEW contribution_details IS 'Which terms does a layer have besides its heads and its stored neurons? One row per position, layer and term. In the view `contributions`, the component attn is the sum of the layer''s heads and attn_bias; the component mlp is the sum of the layer''s stored neurons, mlp_remainder and mlp_bias.';
COMMENT ON COLUMN contribution_details.component IS 'name of the term. attn_bias: the attention bias b_O, which includes the folded value biases. mlp_bias: the MLP bias b_out. mlp_remainder: the sum of the direct effects of the neurons that are not stored, plus the rounding errors of the stored neurons. mlp_remainder_abs: the sum of the absolute direct effects of the neurons that are not stored, rounded to 0.0001; it is not a term of the logit';
COMMENT ON COLUMN contribution_details.toward_next IS 'direct effect of the term on the next token, in logits; for mlp_remainder_abs, a sum of absolute direct effects';
COMMENT ON COLUMN contribution_details.toward_top IS 'direct effect of the term on the top prediction, in logits; for mlp_remainder_abs, a sum of absolute direct effects';

CREATE VIEW heads AS
SELECT e.run_id, e.position_id, e.layer, e.head, base.logits(e.toward_next) AS toward_next, base.logits(e.toward_top) AS toward_top,
       e.position_id - e.source_offset AS top_source_position_id, e.attention::FLOAT AS top_source_attention,
       e.output_norm::FLOAT AS output_norm
FROM base.head e;
COMMENT ON VIEW heads IS 'What is the direct effect of each head at a position? One row per position, layer and head. Every head has a row at every position.';
COMMENT ON COLUMN heads.toward_next IS 'direct effect of the head on the next token, in logits, rounded to a multiple of 2^-23 (about 1.2e-7)';
COMMENT ON COLUMN heads.toward_top IS 'direct effect of the head on the top prediction, in logits, rounded to a multiple of 2^-23 (about 1.2e-7)';
COMMENT ON COLUMN heads.top_source_position_id IS 'position_id of the source that the head attends to most';
COMMENT ON COLUMN heads.top_source_attention IS 'attention probability of the source that the head attends to most, rounded to 0.0001';
COMMENT ON COLUMN heads.output_norm IS 'norm of the vector that the head adds to the residual stream (‖z W_O‖), rounded to 0.001';

CREATE VIEW head_sources AS
SELECT e.run_id, e.position_id, e.layer, e.head, e.position_id - e.source_offset AS source_position_id,
       e.attention::FLOAT AS attention, coalesce(e.toward_next::FLOAT, e.unrounded_next) AS toward_next,
       coalesce(e.toward_top::FLOAT, e.unrounded_top) AS toward_top
FROM base.head_source e;
COMMENT ON VIEW head_sources IS 'From which source positions do the heads read? One row per position, head and source. Unless the run stores all sources, a position has rows only for the pairs of head and source with the largest direct effects. positions.source_bound is an upper bound of the absolute direct effects of the other pairs.';
COMMENT ON COLUMN head_sources.attention IS 'attention probability of the source, rounded to 0.0001';
COMMENT ON COLUMN head_sources.toward_next IS 'the source''s part of the head''s direct effect on the next token, in logits. It is rounded to 0.0001 unless the run stores all sources';
COMMENT ON COLUMN head_sources.toward_top IS 'the source''s part of the head''s direct effect on the top prediction, in logits. It is rounded to 0.0001 unless the run stores all sources';

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
COMMENT ON VIEW base.coded_neuron IS 'One row per position, layer and neuron whose activation is stored as a code in base.neuron_code, in runs with --keep-neurons all. The view decodes the activation and computes the direct effects from it. The strongest neurons have no code and are not in this view; they have rows in base.neuron.';

CREATE VIEW base.kept_neuron AS
SELECT e.run_id, e.position_id, e.layer, e.neuron, e.activation::FLOAT AS activation, e.toward_next::FLOAT AS toward_next,
       e.toward_top::FLOAT AS toward_top, 0.0005::FLOAT AS activation_error
FROM base.neuron e;
COMMENT ON VIEW base.kept_neuron IS 'The rows of base.neuron, which are the strongest neurons of each position and layer, with their values converted to FLOAT. In a run with --keep-neurons all, the view base.coded_neuron has the other neurons.';

CREATE VIEW neurons AS
FROM base.kept_neuron
UNION ALL
FROM base.coded_neuron;
COMMENT ON VIEW neurons IS 'Which neurons were active or had an effect at a position? One row per position, layer and stored neuron. For the neurons that are not stored, the view neuron_bounds has upper bounds of the absolute activation and of the absolute direct effects.';
COMMENT ON COLUMN neurons.activation IS 'activation after the activation function (hook_post), rounded to 0.001. With --keep-neurons all, only the strongest neurons of a position and layer are rounded to 0.001. The other activations are rounded more coarsely: to one of 31 levels between the min and the max of a group of 128 neurons';
COMMENT ON COLUMN neurons.activation_error IS 'upper bound of the absolute rounding error of the column `activation`. With --keep-neurons all, the direct effects of all neurons except the strongest are computed from the rounded activation, so they have the same relative error as the activation';
COMMENT ON COLUMN neurons.toward_next IS 'direct effect of the neuron on the next token, in logits, rounded to 0.001. With --keep-neurons all, the effects of all neurons except the strongest are computed from the rounded activation instead (see activation_error)';
COMMENT ON COLUMN neurons.toward_top IS 'direct effect of the neuron on the top prediction, in logits, rounded to 0.001. With --keep-neurons all, the effects of all neurons except the strongest are computed from the rounded activation instead (see activation_error)';

CREATE VIEW neuron_bounds AS
SELECT e.run_id, e.position_id, e.layer, e.activation_bound::FLOAT AS activation_bound, e.next_bound::FLOAT AS next_bound,
       e.top_bound::FLOAT AS top_bound
FROM base.contribution e;
COMMENT ON VIEW neuron_bounds IS 'How large can the activation and the direct effects be for a neuron that has no row in the view `neurons`? One row per position and layer, with upper bounds of the absolute values.';
COMMENT ON COLUMN neuron_bounds.activation_bound IS 'upper bound of abs(activation) for the neurons that are not stored; 0 if all neurons are stored. A run with --keep-neurons k stores the k neurons with the largest abs(activation), so the bound is the (k + 1)-th largest value in the layer';
COMMENT ON COLUMN neuron_bounds.next_bound IS 'upper bound of abs(toward_next) for the neurons that are not stored, in logits; 0 if all neurons are stored. A run with --keep-neurons k stores the k neurons with the largest abs(toward_next), so the bound is the (k + 1)-th largest value in the layer';
COMMENT ON COLUMN neuron_bounds.top_bound IS 'upper bound of abs(toward_top) for the neurons that are not stored, in logits; 0 if all neurons are stored. A run with --keep-neurons k stores the k neurons with the largest abs(toward_top), so the bound is the (k + 1)-th largest value in the layer';

CREATE VIEW lens AS
SELECT l.run_id, l.position_id, l.layer, l.top_token_id, t.token AS top_token, l.top_logprob, l.next_logprob, l.next_rank
FROM base.lens l
JOIN base.run r USING (run_id)
JOIN base.model m USING (model_id)
LEFT JOIN base.token t ON t.tokenizer_id = m.tokenizer_id AND t.token_id = l.top_token_id;
COMMENT ON VIEW lens IS 'At which layer does the model reach its prediction? One row per position and layer of a run with --lens. The logit lens applies the final norm and the unembedding to the residual stream after the layer. The norm uses the scale σ of this residual stream, not the final scale.';
COMMENT ON COLUMN lens.layer IS 'layer after which the logit lens reads the residual stream';
COMMENT ON COLUMN lens.top_logprob IS 'log-probability of top_token, the token to which the logit lens gives the highest probability, in nats';
COMMENT ON COLUMN lens.next_logprob IS 'log-probability that the logit lens gives to the actual next token, in nats';
COMMENT ON COLUMN lens.next_rank IS 'rank of the actual next token by its probability in the logit lens; 1 is the most likely token. Padding ids, which stand for no token, are not counted';

-- 6. Neurons and heads over a run: public views of top-k lists, statistics and samples -----------

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
COMMENT ON COLUMN neuron_top.side IS 'side of the activations that the list has. high: the largest activations, the largest first. low: the smallest activations, the smallest first';
COMMENT ON COLUMN neuron_top.rank IS 'rank of the position, from 1, in the list of this neuron and this side';
COMMENT ON COLUMN neuron_top.activation IS 'activation after the activation function (hook_post), not rounded';

CREATE VIEW neuron_windows AS
SELECT w.run_id, w.layer, w.unit AS neuron, w.rank, p.window_id, w.position_id, w.value AS activation
FROM base.ranked w JOIN base.position p USING (run_id, position_id)
WHERE w.kind = 'neuron' AND w.list = 'window';
COMMENT ON VIEW neuron_windows IS 'In which windows is this neuron''s activation largest? One row per neuron and rank, exact over the whole run. Windows are ranked by the neuron''s maximum activation in the window, which Neo, Cohen and Barez (2024) call φ, so each window counts once.';
COMMENT ON COLUMN neuron_windows.position_id IS 'position_id of the position in the window where the neuron''s activation is largest; the first such position if several are equal';
COMMENT ON COLUMN neuron_windows.activation IS 'largest activation of the neuron in the window, after the activation function (hook_post), not rounded';

CREATE VIEW head_top AS
SELECT e.run_id, e.layer, e.unit AS head,
       e.list::VARCHAR::side AS side, e.rank, e.position_id, e.value AS toward_next
FROM base.ranked e WHERE e.kind = 'head';
COMMENT ON VIEW head_top IS 'At which positions is the direct effect of this head on the next token largest, and at which is it smallest? One row per head, side and rank, exact over the whole run.';
COMMENT ON COLUMN head_top.side IS 'side of the direct effects that the list has. high: the largest direct effects, the largest first. low: the smallest (most negative) direct effects, the smallest first';
COMMENT ON COLUMN head_top.toward_next IS 'direct effect of the head on the next token, in logits, not rounded';

CREATE VIEW base.finished_sample AS
SELECT u.run_id, u.kind, u.layer, u.unit, unnest(s.position_ids) AS position_id, unnest(u.values)::FLOAT AS value
FROM base.sample_unit u
JOIN (SELECT run_id, list(position_id ORDER BY position_id) AS position_ids
      FROM base.sample_position GROUP BY run_id) s USING (run_id);
COMMENT ON VIEW base.finished_sample IS 'One row per sampled position and unit (neuron or head), only for finished runs. The view base.sample also has the rows of unfinished runs.';

CREATE VIEW base.sample AS
FROM base.finished_sample
UNION ALL
SELECT r.run_id, r.kind, r.layer, (generate_subscripts(r.values, 1) - 1)::UINTEGER, r.position_id, unnest(r.values)::FLOAT
FROM base.sample_row r;
COMMENT ON VIEW base.sample IS 'One row per sampled position and unit (neuron or head), for all runs. An unfinished run has rows only for the sampled positions that its ingest has reached so far.';

CREATE VIEW neuron_samples AS
SELECT e.run_id, e.layer, e.unit AS neuron, e.position_id, e.value FROM base.sample e WHERE e.kind = 'neuron';
COMMENT ON VIEW neuron_samples IS 'What is this neuron''s activation at randomly sampled positions? One row per sampled position and neuron, for all neurons. The sample is uniform over the run''s positions; special tokens are excluded unless the run has --special-in-lists.';
COMMENT ON COLUMN neuron_samples.value IS 'activation after the activation function (hook_post), rounded to 0.001';

CREATE VIEW head_samples AS
SELECT e.run_id, e.layer, e.unit AS head, e.position_id, e.value FROM base.sample e WHERE e.kind = 'head';
COMMENT ON VIEW head_samples IS 'What is this head''s direct effect on the next token at randomly sampled positions? One row per sampled position and head, for all heads. The sampled positions are the same as in neuron_samples.';
COMMENT ON COLUMN head_samples.value IS 'direct effect of the head on the next token, in logits, rounded to 0.001; NULL at the last position of a window, which has no next token';

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
COMMENT ON COLUMN histogram_bins.bin IS 'number of the bin, from 1. The column `histogram` of neuron_stats and head_stats is a list of counts; its element with this number is the count of this bin';
COMMENT ON COLUMN histogram_bins.low IS 'lower edge of the bin: for neuron_stats an activation, for head_stats a direct effect in logits. NULL for the first bin, which has no lower edge';
COMMENT ON COLUMN histogram_bins.high IS 'upper edge of the bin: for neuron_stats an activation, for head_stats a direct effect in logits. NULL for the last bin, which has no upper edge';

CREATE MACRO base.values_of(steps) AS steps::DOUBLE / base.steps_a_value();
CREATE MACRO base.squares_of(steps) AS steps::DOUBLE / base.steps_a_square();
CREATE MACRO base.attention_of(steps) AS steps::DOUBLE / base.steps_of_attention();

CREATE VIEW base.unit_summary AS
SELECT run_id, kind, layer, unit, count, base.values_of(total) / nullif(count, 0) AS mean,
       CASE WHEN count > 0 THEN sqrt(greatest(0, base.squares_of(squares) / count - (base.values_of(total) / count) ** 2)) END AS std,
       CASE WHEN count > 0 THEN minimum END AS min, CASE WHEN count > 0 THEN maximum END AS max, positive / nullif(count, 0) AS fraction_positive, histogram,
       base.values_of(effect) / nullif(effect_count, 0) AS mean_effect, base.values_of(effect_abs) / nullif(effect_count, 0) AS mean_abs_effect
FROM base.unit_stat;
COMMENT ON VIEW base.unit_summary IS 'One row per neuron or head of a run: statistics such as the mean and the standard deviation, computed from the sums in base.unit_stat. The views neuron_stats and head_stats show them.';

CREATE VIEW neuron_stats AS
SELECT run_id, layer, unit AS neuron, count, mean, std, min, max, fraction_positive, histogram, mean_effect, mean_abs_effect
FROM base.unit_summary WHERE kind = 'neuron';
COMMENT ON VIEW neuron_stats IS 'How are this neuron''s activations distributed? One row per neuron, exact over every stored position of the run. First positions of windows are included; special tokens are excluded unless the run has --special-in-lists.';
COMMENT ON COLUMN neuron_stats.count IS 'number of positions over which the statistics are computed. The positions of special tokens that are excluded are not counted here; runs.special_excluded has their number';
COMMENT ON COLUMN neuron_stats.mean IS 'mean activation after the activation function (hook_post)';
COMMENT ON COLUMN neuron_stats.std IS 'population standard deviation of the activation after the activation function (hook_post)';
COMMENT ON COLUMN neuron_stats.min IS 'minimum activation after the activation function (hook_post)';
COMMENT ON COLUMN neuron_stats.max IS 'maximum activation after the activation function (hook_post)';
COMMENT ON COLUMN neuron_stats.fraction_positive IS 'fraction of positions with an activation above 0';
COMMENT ON COLUMN neuron_stats.histogram IS 'list of counts, one for each bin of histogram_bins: the number of positions whose activation is in the bin';
COMMENT ON COLUMN neuron_stats.mean_effect IS 'mean direct effect of the neuron on the next token, in logits, over the positions that have a next token';
COMMENT ON COLUMN neuron_stats.mean_abs_effect IS 'mean absolute direct effect of the neuron on the next token, in logits, over the positions that have a next token';

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
COMMENT ON VIEW head_stats IS 'What does this head attend to, and what are its direct effects? One row per head, exact over every stored position of the run. Positions with special tokens are excluded unless the run has --special-in-lists. The attention that other positions pay to special tokens is always counted.';
COMMENT ON COLUMN head_stats.count IS 'number of positions over which the statistics of the direct effect are computed: the positions that have a next token';
COMMENT ON COLUMN head_stats.mean IS 'mean direct effect of the head on the next token, in logits';
COMMENT ON COLUMN head_stats.std IS 'population standard deviation of the head''s direct effect on the next token, in logits';
COMMENT ON COLUMN head_stats.min IS 'minimum direct effect of the head on the next token, in logits';
COMMENT ON COLUMN head_stats.max IS 'maximum direct effect of the head on the next token, in logits';
COMMENT ON COLUMN head_stats.histogram IS 'list of counts, one for each bin of histogram_bins: the number of positions where the direct effect on the next token, in logits, is in the bin';
COMMENT ON COLUMN head_stats.mean_effect IS 'mean direct effect of the head on the next token, in logits. It equals the column `mean`; it is repeated here because neuron_stats has this value under the name mean_effect';
COMMENT ON COLUMN head_stats.mean_abs_effect IS 'mean absolute direct effect of the head on the next token, in logits';
COMMENT ON COLUMN head_stats.fraction_positive IS 'fraction of positions where the direct effect on the next token is above 0';
COMMENT ON COLUMN head_stats.attention_self IS 'mean attention probability from a position to itself. attention_count is the number of positions in the mean';
COMMENT ON COLUMN head_stats.attention_previous IS 'mean attention probability from a position to the previous position. attention_count is the number of positions in the mean';
COMMENT ON COLUMN head_stats.attention_first IS 'mean attention probability from a position to the first position of the window. attention_count is the number of positions in the mean';
COMMENT ON COLUMN head_stats.attention_duplicate IS 'mean total attention from a position to all earlier occurrences of the same token in the window. The mean is over the positions whose token occurred before; attention_duplicate_count is their number';
COMMENT ON COLUMN head_stats.attention_induction IS 'mean total attention from a position to the tokens that directly follow earlier occurrences of the position''s token in the window (Olsson et al. 2022). The mean is over the positions whose token occurred before; attention_induction_count is their number';
COMMENT ON COLUMN head_stats.entropy IS 'mean entropy of the head''s attention distribution, in nats. attention_count is the number of positions in the mean';
COMMENT ON COLUMN head_stats.attention_count IS 'number of positions over which attention_self, attention_previous, attention_first and entropy are averaged: all positions except the first of each window, and except excluded special tokens';
COMMENT ON COLUMN head_stats.attention_duplicate_count IS 'number of positions over which attention_duplicate is averaged: those whose token occurred before in the window';
COMMENT ON COLUMN head_stats.attention_induction_count IS 'number of positions over which attention_induction is averaged: those whose token occurred before in the window';

CREATE VIEW closure AS
SELECT p.run_id, m.n_layers, count(*) AS positions, max(error) AS worst,
       quantile_cont(error, 0.5) AS median, quantile_cont(error, 0.99) AS p99
FROM (SELECT run_id, greatest(abs(closure_top), coalesce(abs(closure_next), 0)) AS error FROM base.position) p
JOIN base.run r USING (run_id)
JOIN base.model m USING (model_id)
GROUP BY p.run_id, m.n_layers;
COMMENT ON VIEW closure IS 'Do the terms of each position sum to its logit? One row per run: the maximum, median and 99th percentile of the closure error over the run''s positions. The closure error is abs(sum of terms − logit). A position has one for the next token and one for the top prediction; the larger of the two is used.';
COMMENT ON COLUMN closure.worst IS 'maximum closure error over the run''s positions, in logits. The closure error is abs(sum of terms − logit)';
COMMENT ON COLUMN closure.median IS 'median closure error over the run''s positions, in logits. The closure error is abs(sum of terms − logit)';
COMMENT ON COLUMN closure.p99 IS '99th percentile of the closure error over the run''s positions, in logits. The closure error is abs(sum of terms − logit)';

-- 7. Public macros. If the argument `run` is NULL, it means the run that finished last -----------

CREATE MACRO base.chosen_run(run) AS
    coalesce(run, (SELECT arg_max(run_id, finished) FROM base.run WHERE status = 'finished'));

-- In the query of a macro, table aliases end in an underscore if the query uses an argument of the macro. The reason:
-- the caller may pass a column as the argument, as in FROM positions p, decomposition(p.position_id). If a table in the
-- macro's query also had the alias p, then p.position_id would mean the column of that table, not the caller's column.
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
WITH asked_ AS MATERIALIZED (FROM base.position p_ WHERE p_.position_id = position_id LIMIT 1), -- with LIMIT 1, DuckDB finds the row by the index; with MATERIALIZED, it reads the row only once
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
COMMENT ON MACRO TABLE base.terms IS 'Which stored terms of a prediction''s logit are not neurons? One row per term, such as a head or a bias. Together with the stored neurons, these terms sum to the centred logit.';

CREATE MACRO decomposition(position_id) AS TABLE
SELECT 'neuron' AS component, n_.layer, NULL::UTINYINT AS head, n_.neuron, n_.toward_next, n_.toward_top
FROM neurons n_ WHERE n_.position_id = position_id
UNION ALL
FROM base.terms(position_id);
COMMENT ON MACRO TABLE decomposition IS 'Which stored terms add up to this prediction''s logit? One row per term: embeddings, heads, stored neurons, remainders and biases. The column toward_next sums to the centred logit of the next token, and the column toward_top to the centred logit of the top prediction.';

-- Each common table expression (WITH) below has at most one join. With more joins, DuckDB would not use the index to
-- find the rows of base.position, and would read the whole table.
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
COMMENT ON MACRO TABLE neuron_contexts IS 'At which positions of the run is this neuron''s activation largest (side high) or smallest (side low), and which tokens are at these positions? One row per side and rank, from neuron_top, exact over the whole run.';

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
COMMENT ON MACRO TABLE head_contexts IS 'At which positions of the run is the direct effect of this head on the next token largest (side high) or smallest (side low), and to which source does the head attend most at each of these positions? One row per side and rank, from head_top, exact over the whole run.';

CREATE MACRO head_effects_by_document(layer, head, run := NULL) AS TABLE
SELECT p_.document_id, count(*) AS positions, sum(h_.toward_next)::DOUBLE AS effect_sum, sum(abs(h_.toward_next))::DOUBLE AS abs_effect_sum
FROM heads h_ JOIN base.position p_ USING (run_id, position_id)
WHERE h_.run_id = base.chosen_run(run) AND h_.layer = layer AND h_.head = head AND h_.toward_next IS NOT NULL
  AND h_.position_id NOT IN (SELECT position_id FROM base.left_out)
GROUP BY p_.document_id ORDER BY p_.document_id;
COMMENT ON MACRO TABLE head_effects_by_document IS 'How large is the direct effect of this head on the next token in each document? One row per document: the number of positions, the sum of the effect over these positions, and the sum of its absolute value, in logits. Positions with special tokens are excluded as in head_stats. To get the error bar of a mean effect, resample documents instead of positions, as `Head.mean_effect` and `Store.mean` do in Python, because positions of one document are not independent.';

CREATE MACRO token_occurrences(token, run := NULL) AS TABLE
SELECT p_.* FROM positions p_
WHERE p_.run_id = base.chosen_run(run) AND p_.token = token
ORDER BY p_.position_id;
COMMENT ON MACRO TABLE token_occurrences IS 'At which positions does this token occur? One row per position. The argument `token` must be the exact text of the token, with its leading space if it has one.';

-- base.found finds a text in the documents of a run, as written or in a canonically equivalent form (é as one character
-- or as two).
-- To find the equivalent forms, it normalises the text and the document (NFC) and searches in the normalised document.
-- To convert an offset in the normalised document to one in the original document, it counts clusters: the n-th cluster
-- of one is the n-th cluster of the other, because NFC composes only within a cluster.
-- A cluster is a character with the combining marks (or Hangul vowels and final consonants) that follow it.
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
      AND strlen(text) > length(text) -- skips texts in ASCII, which have no other canonically equivalent form
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

-- 8. Neurons and embeddings: results from a model's weights, some compared with bigrams -----------

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
COMMENT ON TABLE base.weights IS 'One row per model whose weights were read by `annotate weights` (or at the end of `annotate ingest`). top: the number k of entries in each top-k list. distance: the number of tokens from the source to the destination in head_pairs and skip_trigrams. libraries: the versions of the libraries that computed the results. One transaction writes this row and all other results from the model''s weights.';
INSERT INTO base.catalogue VALUES ('weights', 'model', ['model_id'], [], true, NULL);
COMMENT ON COLUMN base.weights.dimensions IS 'number of dimensions of the residual stream in which the random rotations of the null distributions act. It is d_model in a model with RMSNorm, and d_model − 1 in a model with LayerNorm, because LayerNorm and centring remove the direction (1, …, 1)';
COMMENT ON COLUMN base.weights.rotations IS 'number of random rotations, drawn with a fixed seed, from which the null distributions of weight_stats.copying_z and weight_stats.matching_z are computed for each head';
COMMENT ON COLUMN base.weights.directions IS 'number of random directions (unit vectors, drawn with a fixed seed) from which congruence_mean and congruence_std are computed';
COMMENT ON COLUMN base.weights.congruence_mean IS 'mean of the null distribution that weight_stats.congruence_z uses. Each random unit vector gives one value: its largest inner product with the W_U column of a real token (padding ids excluded), in centred logits at σ = 1. NULL for a row that was stored under schema version 8, which drew no random vectors';
COMMENT ON COLUMN base.weights.congruence_std IS 'standard deviation of the null distribution that weight_stats.congruence_z uses. Each random unit vector gives one value: its largest inner product with the W_U column of a real token (padding ids excluded), in centred logits at σ = 1. NULL for a row that was stored under schema version 8, which drew no random vectors';

CREATE TABLE base.neuron_vocabulary (
    model_id   INTEGER   NOT NULL,
    layer      UTINYINT  NOT NULL,
    neuron     UINTEGER  NOT NULL,
    direction  direction NOT NULL,
    rank       USMALLINT NOT NULL,
    token_id   INTEGER   NOT NULL,
    congruence FLOAT     NOT NULL
);
COMMENT ON TABLE base.neuron_vocabulary IS 'One row per neuron, direction (promotes or suppresses) and rank: one of the tokens that the neuron promotes or suppresses most. Sorted by layer, neuron, direction and rank.';
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
COMMENT ON TABLE base.neuron_weight IS 'One row per neuron of a model, sorted by layer and neuron: the norms of the neuron''s input weights W_in and output weights W_out, the cosine between W_in and W_out, and the neuron''s bias. In a gated MLP also the norm of its gate weights W_gate, the cosine between W_gate and W_out, and the bias of the gate.';
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
COMMENT ON TABLE base.neuron_read IS 'One row per neuron, input of the neuron (reading), kind of source (earlier head or earlier neuron) and rank: one of the sources that have the largest virtual weights to this input. A virtual weight is the product of the source''s output weights and the neuron''s input weights. Sorted by layer and neuron.';
INSERT INTO base.catalogue VALUES ('neuron_read', 'model', ['model_id', 'layer', 'neuron', 'reading', 'source_layer', 'source_head', 'source_neuron'], ['layer', 'neuron', 'reading', 'source_head IS NULL', 'rank'], true, NULL);

CREATE TABLE base.direct_path (
    model_id      INTEGER   NOT NULL,
    token_id      INTEGER   NOT NULL,
    rank          USMALLINT NOT NULL,
    next_token_id INTEGER   NOT NULL,
    logprob       FLOAT     NOT NULL
);
COMMENT ON TABLE base.direct_path IS 'One row per token and rank: one of the next tokens that the direct path (embedding, norm and unembedding, without heads and neurons) predicts most strongly after the token. Sorted by token_id and rank.';
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
COMMENT ON TABLE base.bigram_agreement IS 'One row per finished run and token that has a next token somewhere in the run, sorted by token_id: how well the direct path of the token (its embedding, the norm and the unembedding) predicts which tokens come next after it in the run.';
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
COMMENT ON TABLE base.bigram_distance IS 'One row per finished run and range of bigram counts, sorted by min_count. A bigram is a token and its next token; its count is the number of positions where it occurs in the run. Each row has averages over the bigrams whose count is in the range: how similar the embedding of the first token and the unembedding of the second token are.';
INSERT INTO base.catalogue VALUES ('bigram_distance', 'run', ['run_id', 'min_count'], ['min_count'], true, NULL);

-- The views below use LEFT JOIN. Inner joins would give the same rows, because every token has a row in the vocabulary.
-- But DuckDB reorders inner joins: it would first join two copies of the vocabulary, with one row per pair of tokens.
CREATE VIEW neuron_vocabulary AS
SELECT n.model_id, n.layer, n.neuron, n.direction, n.rank, n.token_id, t.token, n.congruence
FROM base.neuron_vocabulary n
LEFT JOIN vocabulary t ON t.model_id = n.model_id AND t.token_id = n.token_id;
COMMENT ON VIEW neuron_vocabulary IS 'Which tokens does this neuron promote, and which does it suppress? One row per neuron, direction (promotes or suppresses) and rank. The token that the neuron promotes most is called its next-token (Neo, Cohen and Barez 2024).';
COMMENT ON COLUMN neuron_vocabulary.direction IS 'list in which the token is. promotes: the tokens with the highest congruence, from the highest down; suppresses: the tokens with the lowest congruence, from the lowest up';
COMMENT ON COLUMN neuron_vocabulary.rank IS 'rank of the token in its list, from 1. Only real tokens are ranked, not padding ids; of tokens with equal congruence, the one with the lower token_id comes first';
COMMENT ON COLUMN neuron_vocabulary.congruence IS 'congruence of the neuron with the token: the inner product ⟨W_out, W_U⟩ of the neuron''s output weights and the token''s column of W_U, in centred logits per unit of activation at σ = 1. For the token that the neuron promotes most, weight_stats.congruence_z compares the congruence with its null distribution; the store has no null distribution for other tokens';

CREATE VIEW neuron_reads AS
SELECT r.model_id, r.layer, r.neuron, CASE WHEN r.source_head IS NULL THEN 'neuron' ELSE 'head' END AS component,
       r.rank, r.source_layer, r.source_head, r.source_neuron, r.weight, r.z, r.reading
FROM base.neuron_read r;
COMMENT ON VIEW neuron_reads IS 'From which earlier heads and neurons can this neuron read most? One row per neuron, input of the neuron (reading), kind of source (head or neuron) and rank: one of the sources with the largest virtual weights to this input (Elhage et al. 2021).';
COMMENT ON COLUMN neuron_reads.reading IS 'input of the neuron that reads from the source. pre: the pre-activation, read through W_gate in a gated MLP and through W_in otherwise; pre_linear: the linear input of a gated MLP, read through W_in';
COMMENT ON COLUMN neuron_reads.component IS 'kind of the source: head or neuron';
COMMENT ON COLUMN neuron_reads.rank IS 'rank of the source among the sources of the same kind (head or neuron), from 1, by abs(weight), the largest first';
COMMENT ON COLUMN neuron_reads.weight IS 'virtual weight from the source to the neuron, if the norm before the MLP has the scale σ = 1. For a source head it is the norm ‖W_O W_in‖ (pre-activation per unit of the head''s z), and for a source neuron it is the product W_out W_in (pre-activation per unit of the source''s activation). In a gated MLP, rows with reading = pre have W_gate in place of W_in';
COMMENT ON COLUMN neuron_reads.z IS 'z-score of the weight (for a source head, of weight²) under its null distribution, in which the neuron''s input weights are rotated at random; computed in closed form. Large values are expected, because the rows are the largest of many weights: by chance alone, the largest abs(z) of n source neurons is about √(2 ln n)';

CREATE VIEW direct_path AS
SELECT f.model_id, f.token_id, t.token, f.rank, f.next_token_id, n.token AS next_token, f.logprob
FROM base.direct_path f
LEFT JOIN vocabulary t ON t.model_id = f.model_id AND t.token_id = f.token_id
LEFT JOIN vocabulary n ON n.model_id = f.model_id AND n.token_id = f.next_token_id;
COMMENT ON VIEW direct_path IS 'Which next tokens would the model predict after this token without heads, neurons and position embeddings? One row per token and rank. The prediction is softmax(norm(W_E) W_U + b_U): only the final norm and the unembedding are applied to the token''s embedding, and the norm''s scale σ is that of the embedding.';
COMMENT ON COLUMN direct_path.rank IS 'rank of the next token, from 1 for the most likely one, in the prediction of the direct path (embedding, norm and unembedding). Only real tokens are ranked, not padding ids; of tokens with equal logits, the one with the lower token_id comes first';
COMMENT ON COLUMN direct_path.logprob IS 'log-probability, in nats, of the next token in the prediction of the direct path (embedding, norm and unembedding), a softmax that includes padding ids. The store has no null distribution for it, but bigram_agreement compares the direct path with a baseline, the direct path of another token';

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
COMMENT ON COLUMN bigrams.count IS 'number of positions in the run at which this token occurs and is followed by this next token';
COMMENT ON COLUMN bigrams.share IS 'count divided by the number of this token''s positions in the run that have a next token, 0 to 1';

CREATE VIEW bigram_agreement AS
SELECT a.run_id, a.token_id, t.token, a.count, a.next_tokens, a.rank_correlation, a.divergence, a.overlap,
       a.shuffled_rank_correlation, a.shuffled_divergence, a.shuffled_overlap
FROM base.bigram_agreement a
JOIN base.run r USING (run_id)
LEFT JOIN vocabulary t ON t.model_id = r.model_id AND t.token_id = a.token_id;
COMMENT ON VIEW bigram_agreement IS 'Does the direct path (embedding, norm and unembedding) predict which tokens come next after this token in the corpus? One row per finished run and token. Special tokens are excluded unless the run has --special-in-lists. The columns shuffled_… are the baseline: the same scores with the direct path of another token of the run, drawn at random.';
COMMENT ON COLUMN bigram_agreement.count IS 'number of the token''s positions in the run that have a next token';
COMMENT ON COLUMN bigram_agreement.next_tokens IS 'number of distinct next tokens that the token has in the run';
COMMENT ON COLUMN bigram_agreement.rank_correlation IS 'Spearman correlation between two values of each possible next token: the number of times it comes next after this token in the run (ties averaged), and its logit in the direct path of this token (embedding, norm and unembedding). The correlation is over all real tokens (padding ids excluded)';
COMMENT ON COLUMN bigram_agreement.divergence IS 'Kullback-Leibler divergence KL(P ‖ Q), in nats. P is the distribution of the next tokens that this token has in the run; Q is the prediction of the direct path of this token (embedding, norm and unembedding), a softmax that includes padding ids';
COMMENT ON COLUMN bigram_agreement.overlap IS 'fraction, 0 to 1, of the ten most frequent next tokens of this token that are among the ten top predictions of its direct path (embedding, norm and unembedding). If the token has fewer than ten distinct next tokens, all of them are taken';
COMMENT ON COLUMN bigram_agreement.shuffled_rank_correlation IS 'baseline of rank_correlation: the same correlation, but with the direct path of another token of the run. For each token, the other token was drawn at random once, with a fixed seed';
COMMENT ON COLUMN bigram_agreement.shuffled_divergence IS 'baseline of divergence: the same divergence in nats, but with the direct path of another token of the run. For each token, the other token was drawn at random once, with a fixed seed';
COMMENT ON COLUMN bigram_agreement.shuffled_overlap IS 'baseline of overlap: the same fraction, but with the direct path of another token of the run. For each token, the other token was drawn at random once, with a fixed seed';

CREATE VIEW bigram_summary AS
WITH weighted AS (SELECT *, count / sum(count) OVER (PARTITION BY run_id) AS weight FROM base.bigram_agreement)
SELECT run_id, count(*) AS tokens, sum(count)::BIGINT AS positions,
       sum(weight * rank_correlation) AS rank_correlation, sum(weight * shuffled_rank_correlation) AS shuffled_rank_correlation,
       sum(weight * divergence) AS divergence, sum(weight * shuffled_divergence) AS shuffled_divergence,
       sum(weight * overlap) AS overlap, sum(weight * shuffled_overlap) AS shuffled_overlap
FROM weighted GROUP BY run_id;
COMMENT ON VIEW bigram_summary IS 'How well do the embeddings alone predict the corpus''s bigrams? One row per finished run: weighted means of the scores in bigram_agreement over the run''s tokens. The weight of a token is its number of positions that have a next token. The columns shuffled_… are the baseline (the direct path of another token).';
COMMENT ON COLUMN bigram_summary.tokens IS 'number of distinct tokens of the run that have a next token; the means are over these tokens';
COMMENT ON COLUMN bigram_summary.rank_correlation IS 'mean of bigram_agreement.rank_correlation (Spearman correlation of bigram counts with the logits of the direct path) over the run''s tokens, each weighted by its number of positions';
COMMENT ON COLUMN bigram_summary.divergence IS 'mean of bigram_agreement.divergence (Kullback-Leibler divergence, in nats, of the next tokens in the corpus from the prediction of the direct path) over the run''s tokens, each weighted by its number of positions';
COMMENT ON COLUMN bigram_summary.overlap IS 'mean of bigram_agreement.overlap (fraction of the ten most frequent next tokens that are among the ten top predictions of the direct path) over the run''s tokens, each weighted by its number of positions';
COMMENT ON COLUMN bigram_summary.shuffled_rank_correlation IS 'baseline of rank_correlation: mean of bigram_agreement.shuffled_rank_correlation over the run''s tokens, each weighted by its number of positions';
COMMENT ON COLUMN bigram_summary.shuffled_divergence IS 'baseline of divergence: mean of bigram_agreement.shuffled_divergence, in nats, over the run''s tokens, each weighted by its number of positions';
COMMENT ON COLUMN bigram_summary.shuffled_overlap IS 'baseline of overlap: mean of bigram_agreement.shuffled_overlap over the run''s tokens, each weighted by its number of positions';

CREATE VIEW bigram_distances AS
SELECT d.run_id, d.min_count, d.max_count, d.bigrams, d.inner_product, d.cosine, d.cosine_std FROM base.bigram_distance d;
COMMENT ON VIEW bigram_distances IS 'Are the embedding of a bigram''s first token and the unembedding of its second token more similar if the bigram is frequent? One row per finished run and range of bigram counts. For each bigram, the W_E row of the first token, after the final norm, is compared with the W_U column of the second token.';
COMMENT ON COLUMN bigram_distances.min_count IS 'smallest count that the bigrams in this row may have; the count of a bigram is its number of positions in the run. The row with min_count 0 is for pairs of a first and a second token that both occur in bigrams of the run, but never together';
COMMENT ON COLUMN bigram_distances.max_count IS 'largest count that the bigrams in this row may have; the count of a bigram is its number of positions in the run';
COMMENT ON COLUMN bigram_distances.bigrams IS 'number of distinct bigrams whose count is from min_count to max_count. The columns inner_product, cosine and cosine_std are computed over these bigrams';
COMMENT ON COLUMN bigram_distances.inner_product IS 'mean, over the row''s bigrams, of the inner product of the first token''s W_E row, after the final norm, and the second token''s W_U column. It is the centred logit that the direct path gives to the second token, without b_U; the baseline is the row with min_count 0, whose bigrams do not occur in the run';
COMMENT ON COLUMN bigram_distances.cosine IS 'mean, over the row''s bigrams, of the cosine between the first token''s W_E row, after the final norm, and the second token''s W_U column. The row with min_count 0 is the baseline, because its bigrams do not occur in the run';
COMMENT ON COLUMN bigram_distances.cosine_std IS 'standard deviation, over the row''s bigrams, of the cosine whose mean is in the column `cosine`';

-- 9. Heads: what a model's weights predict, compared with how the heads behave --------------------

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
COMMENT ON TABLE base.head_vocabulary IS 'One row per head, source token (one of the frequent tokens) and rank: one of the tokens that the head promotes most if it attends to the source token. The column `source` has the id of the source token, and the column `output` the id of the promoted token. Sorted by layer, head, source and rank.';
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
COMMENT ON TABLE base.head_pair IS 'One row per head and rank: one of the pairs of tokens with the highest attention from the destination token to the source token. The columns `destination` and `source` are token ids. Sorted by layer, head and rank.';
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
COMMENT ON TABLE base.skip_trigram IS 'One row per head and rank: one of the head''s strongest skip-trigrams (source … destination → output). In a skip-trigram, the head attends from the destination token to the earlier source token and thereby promotes the output token. The columns `source`, `destination` and `output` are token ids. Sorted by layer, head and rank.';
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
COMMENT ON TABLE base.head_weight IS 'One row per head of a model: scores computed from the head''s weights, and means of its attention on sequences of repeated random tokens (the columns random_…).';
INSERT INTO base.catalogue VALUES ('head_weight', 'model', ['model_id', 'layer', 'head'], ['layer', 'head'], true, NULL);

CREATE TABLE base.head_distance (
    model_id INTEGER   NOT NULL,
    layer    UTINYINT  NOT NULL,
    head     UTINYINT  NOT NULL,
    distance USMALLINT NOT NULL,
    score    FLOAT     NOT NULL
);
COMMENT ON TABLE base.head_distance IS 'One row per head and distance, which is the number of tokens from the source to the destination, from 0. The column `score` is the head''s attention score at this distance, before the softmax; the query and the key are both computed from the mean embedding of all real tokens.';
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
COMMENT ON TABLE base.head_composition IS 'One row per kind of composition (Q, K or V), head, and head of an earlier layer: how strongly the queries (Q), keys (K) or values (V) of the head read the earlier head''s output.';
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
COMMENT ON VIEW weight_stats IS 'What do the weights of a neuron or head say about its function? One row per neuron (the column `head` is NULL) and one row per head (the column `neuron` is NULL). Before the values are computed, the weights are processed: the norm is folded into the weights that read the residual stream, and W_U is centred over the vocabulary. If the norm is LayerNorm, the weights that write to the residual stream are centred over d_model, too.';
COMMENT ON COLUMN weight_stats.cosine IS 'cosine between a neuron''s input weights W_in and output weights W_out. With a cosine near −1, the neuron erases the direction that it reads; with a cosine near 1, it amplifies that direction';
COMMENT ON COLUMN weight_stats.cosine_z IS 'z-score of the cosine under its null distribution, the cosine of two random directions. This distribution has mean 0 and standard deviation 1 / √(d_model − 1), or 1 / √d_model in a model with RMSNorm';
COMMENT ON COLUMN weight_stats.gate_norm IS 'norm ‖W_gate‖ of a neuron''s gate weights: the change of the pre-activation if the normalised residual stream moves by 1 in the direction of W_gate; NULL if the MLP is not gated';
COMMENT ON COLUMN weight_stats.gate_cosine IS 'cosine between a neuron''s gate weights W_gate and output weights W_out; NULL if the MLP is not gated';
COMMENT ON COLUMN weight_stats.gate_bias IS 'bias of a neuron''s gate, a constant term of its pre-activation; NULL if the MLP is not gated';
COMMENT ON COLUMN weight_stats.in_norm IS 'norm ‖W_in‖ of a neuron''s input weights: the change of the pre-activation (in a gated MLP, of the linear input) if the normalised residual stream moves by 1 in the direction of W_in';
COMMENT ON COLUMN weight_stats.out_norm IS 'norm ‖W_out‖ of a neuron: the length of the vector that the neuron adds to the residual stream, per unit of activation';
COMMENT ON COLUMN weight_stats.bias IS 'bias b_in of a neuron, with the norm''s bias folded in: the neuron''s pre-activation (in a gated MLP, its linear input) if the residual stream has no component along W_in';
COMMENT ON COLUMN weight_stats.next_token IS 'next-token of a neuron: the token that the neuron promotes most, by congruence (Neo, Cohen and Barez 2024)';
COMMENT ON COLUMN weight_stats.congruence IS 'congruence of a neuron with its next-token (the token that it promotes most), in centred logits per unit of activation at σ = 1';
COMMENT ON COLUMN weight_stats.congruence_z IS 'z-score of the congruence under its null distribution. In the null distribution, W_out is replaced by a vector of the same norm and of random direction, and the value is the vector''s largest congruence with any real token (padding ids excluded)';
COMMENT ON COLUMN weight_stats.draws IS 'number of random draws, with a fixed seed, from which the null distribution is computed: that of congruence_z in the row of a neuron, and those of copying_z and matching_z in the row of a head';
COMMENT ON COLUMN weight_stats.copying IS 'copying score of a head, from −1 to 1: Σ Re λ / Σ |λ| over the eigenvalues λ of W_E W_OV W_U, whose entries are the head''s effects on one token if it attends to another. A head with a score near 1 promotes the tokens that it attends to (Elhage et al. 2021)';
COMMENT ON COLUMN weight_stats.copying_z IS 'z-score of the copying score under its null distribution. In the null distribution, the directions that the head reads are rotated at random relative to the directions that it writes, and the mean score is 0';
COMMENT ON COLUMN weight_stats.copying_rank IS 'typical rank that the head gives to the token to which it attends; 1 means that the head promotes the attended token most. For each frequent token (see head_vocabulary.source_token_id) as the attended token, all real tokens are sorted by how much the head promotes them, and the rank of the attended token itself is taken; the value is the median of these ranks. The store has no null distribution for it; for a head without a preference it is about half the number of real tokens';
COMMENT ON COLUMN weight_stats.matching IS 'matching score of a head, from −1 to 1: Σ Re λ / Σ |λ| over the eigenvalues λ of W_E W_QK W_Eᵀ, whose entries are the attention scores from one token to another, with rotary embeddings as at distance 0. A head with a score near 1 attends from a token to other occurrences of the same token';
COMMENT ON COLUMN weight_stats.matching_z IS 'z-score of the matching score under its null distribution. In the null distribution, the directions of the head''s queries are rotated at random relative to the directions of its keys, and the mean score is 0';
COMMENT ON COLUMN weight_stats.ov_norm IS 'Frobenius norm ‖W_V W_O‖ of a head''s OV circuit, the product of its value weights and output weights';
COMMENT ON COLUMN weight_stats.qk_norm IS 'Frobenius norm ‖W_Q W_Kᵀ‖ of a head''s QK circuit, the product of its query weights and key weights';

CREATE VIEW head_vocabulary AS
SELECT e.model_id, e.layer, e.head, e.source AS source_token_id, s.token AS source_token, e.rank,
       e.output AS token_id, t.token, e.effect
FROM base.head_vocabulary e
LEFT JOIN vocabulary s ON s.model_id = e.model_id AND s.token_id = e.source
LEFT JOIN vocabulary t ON t.model_id = e.model_id AND t.token_id = e.output;
COMMENT ON VIEW head_vocabulary IS 'Which tokens does this head promote if it attends to a given source token? One row per head, source token (one of the frequent tokens) and rank of the promoted token. The values are the head''s OV circuit (Elhage et al. 2021), computed from the weights alone.';
COMMENT ON COLUMN head_vocabulary.source_token_id IS 'id of the token that the head attends to, one of the frequent tokens. These are the 256 most frequent tokens of the runs that were in the store when `annotate weights` read the weights; if there were no runs, they are the tokenizer''s first merges. `annotate weights --fresh` chooses them again';
COMMENT ON COLUMN head_vocabulary.rank IS 'rank of the promoted token among the tokens that the head promotes if it attends to this source token, from 1. Only real tokens are ranked, not padding ids; of tokens with equal effects, the one with the lower token_id comes first';
COMMENT ON COLUMN head_vocabulary.effect IS 'direct effect of the head on the logit of the promoted token if its attention to the source token is 1: norm(W_E[source]) W_V W_O W_U, in centred logits at final σ = 1. The store has no null distribution for it. The rows are the largest effects of all tokens (padding ids excluded), so some are large by chance alone';

CREATE VIEW head_pairs AS
SELECT e.model_id, e.layer, e.head, e.rank, e.destination AS destination_token_id, d.token AS destination_token,
       e.source AS source_token_id, s.token AS source_token, w.distance, e.attention
FROM base.head_pair e
LEFT JOIN base.weights w ON w.model_id = e.model_id
LEFT JOIN vocabulary d ON d.model_id = e.model_id AND d.token_id = e.destination
LEFT JOIN vocabulary s ON s.model_id = e.model_id AND s.token_id = e.source;
COMMENT ON VIEW head_pairs IS 'From which destination token to which source token does this head attend most? One row per head and rank: a pair of frequent tokens (see head_vocabulary.source_token_id). The values are the head''s QK circuit (Elhage et al. 2021), computed from the weights alone.';
COMMENT ON COLUMN head_pairs.distance IS 'number of tokens by which the source stands before the destination when the attention is computed, set by `annotate weights --distance`. With rotary embeddings, the attention depends on this distance';
COMMENT ON COLUMN head_pairs.source_token_id IS 'id of the token that is attended to; it is one of the frequent tokens, which head_vocabulary.source_token_id defines';
COMMENT ON COLUMN head_pairs.destination_token_id IS 'id of the token from which the head attends; it is one of the frequent tokens, which head_vocabulary.source_token_id defines';
COMMENT ON COLUMN head_pairs.attention IS 'attention probability from the destination token to the source token. It is a softmax over all frequent tokens: each of them gets the attention score that it has as the source, `distance` tokens before the destination token, with rotary embeddings and biases. The store has no null distribution for it; a head without a preference gives all frequent tokens the same probability';

CREATE VIEW skip_trigrams AS
SELECT e.model_id, e.layer, e.head, e.rank, e.source AS source_token_id, s.token AS source_token,
       e.destination AS destination_token_id, d.token AS destination_token,
       e.output AS output_token_id, o.token AS output_token, w.distance, e.attention, e.strength
FROM base.skip_trigram e
LEFT JOIN base.weights w ON w.model_id = e.model_id
LEFT JOIN vocabulary s ON s.model_id = e.model_id AND s.token_id = e.source
LEFT JOIN vocabulary d ON d.model_id = e.model_id AND d.token_id = e.destination
LEFT JOIN vocabulary o ON o.model_id = e.model_id AND o.token_id = e.output;
COMMENT ON VIEW skip_trigrams IS 'Which skip-trigrams (source … destination → output) do this head''s weights encode (Elhage et al. 2021)? In a skip-trigram, the head attends from the destination token to the earlier source token and thereby promotes the output token. One row per head and rank. Source and destination are frequent tokens (see head_vocabulary.source_token_id); the output is any real token.';
COMMENT ON COLUMN skip_trigrams.source_token_id IS 'id of the token that is attended to; it is one of the frequent tokens, which head_vocabulary.source_token_id defines';
COMMENT ON COLUMN skip_trigrams.destination_token_id IS 'id of the token from which the head attends; it is one of the frequent tokens, which head_vocabulary.source_token_id defines';
COMMENT ON COLUMN skip_trigrams.distance IS 'number of tokens by which the source stands before the destination when the column `attention` is computed; the same as head_pairs.distance';
COMMENT ON COLUMN skip_trigrams.attention IS 'attention probability that the head gives to the source token from the destination token, computed as in head_pairs.attention';
COMMENT ON COLUMN skip_trigrams.strength IS 'product of the column `attention` and the head''s effect on the output token (see head_vocabulary.effect), in centred logits at final σ = 1. The store has no null distribution for it. The rows are selected as the largest products over all combinations of tokens, so some are large by chance alone';

CREATE VIEW head_distances AS
SELECT e.model_id, e.layer, e.head, e.distance, e.score,
       exp(e.score - e.highest) / sum(exp(e.score - e.highest)) OVER (PARTITION BY e.model_id, e.layer, e.head) AS attention
FROM (SELECT *, max(score) OVER (PARTITION BY model_id, layer, head) AS highest FROM base.head_distance) e;
COMMENT ON VIEW head_distances IS 'Which distance from source to destination does this head prefer, whatever the tokens are? One row per head and distance. The values are the head''s QK circuit, computed from the weights alone; query and key are both computed from the mean embedding of all real tokens.';
COMMENT ON COLUMN head_distances.distance IS 'number of tokens from the source to the destination; 0 if they are the same position';
COMMENT ON COLUMN head_distances.score IS 'attention score at this distance, before the softmax; it includes the biases and the position embedding, if this is rotary or ALiBi';
COMMENT ON COLUMN head_distances.attention IS 'attention probability of this distance: the softmax of the column `score` over all distances of the head in this view. The store has no null distribution for it; a head without a preference gives all distances the same probability';

CREATE VIEW head_composition AS
WITH tested AS (
    SELECT m.model_id, 1 / sqrt(w.dimensions) AS baseline, (3 * m.n_heads ** 2 * m.n_layers * (m.n_layers - 1) / 2)::BIGINT AS pairs
    FROM base.model m JOIN base.weights w USING (model_id)
)
SELECT e.model_id, e.kind, e.earlier_layer, e.earlier_head, e.layer, e.head, e.score, t.baseline, e.z, e.p, t.pairs,
       e.p::DOUBLE * t.pairs AS by_chance
FROM base.head_composition e
LEFT JOIN tested t ON t.model_id = e.model_id;
COMMENT ON VIEW head_composition IS 'Which heads read the output of which earlier heads, and how strongly? One row per kind of composition (Q, K or V), head, and head of an earlier layer.';
COMMENT ON COLUMN head_composition.kind IS 'input of the later head that reads the earlier head''s output: its queries (Q), its keys (K, with rotary embeddings as at distance 0) or its values (V)';
COMMENT ON COLUMN head_composition.score IS 'composition score ‖A B‖ / (‖A‖ ‖B‖) with Frobenius norms (Elhage et al. 2021). A is W_OV of the earlier head. B is a matrix of the later head: W_QK for kind Q, the transpose of W_QK for kind K, and W_OV for kind V';
COMMENT ON COLUMN head_composition.baseline IS 'score to be expected by chance: the root mean square of the score under its null distribution. In the null distribution, B is rotated at random relative to A in the residual stream; the singular values of A and B stay the same. The value is 1 / √d with d = d_model − 1, because centring removes one dimension, or d = d_model in a model with RMSNorm';
COMMENT ON COLUMN head_composition.z IS 'z-score of score² under its null distribution (random rotations, see the column `baseline`), computed in closed form. Sort by this column to find the strongest compositions. If z is below 0, the later head reads less of the earlier head''s output than by chance';
COMMENT ON COLUMN head_composition.p IS 'two-sided p-value: the probability under the null distribution that abs(z) is at least as large as here. It is computed from the mean, standard deviation and skewness of the null distribution; 1e-30 stands for any smaller value';
COMMENT ON COLUMN head_composition.pairs IS 'number of tests in the model: 3 kinds of composition (Q, K and V) times the number of pairs of a head and a head of an earlier layer';
COMMENT ON COLUMN head_composition.by_chance IS 'number of the model''s tests (see the column `pairs`) that are expected to have an abs(z) at least as large as this one by chance: p × pairs';

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
COMMENT ON VIEW head_behaviour IS 'Does a head behave as its weights suggest? One row per head and run of the head''s model; if the model has no run, one row per head, in which run_id and the columns corpus_… are NULL. The columns corpus_… describe the head''s attention on the run''s corpus, and the columns random_… its attention on repeated random tokens. The columns weights_… are what the weights predict.';
COMMENT ON COLUMN head_behaviour.corpus_previous IS 'mean attention to the previous position, on the run''s corpus; the same as head_stats.attention_previous';
COMMENT ON COLUMN head_behaviour.random_previous IS 'mean attention to the previous position on repeated random tokens: ten sequences, each with a block of 25 distinct random tokens that occurs four times in a row (Olsson et al. 2022)';
COMMENT ON COLUMN head_behaviour.weights_previous IS 'attention probability that the head''s QK circuit gives to the previous position (head_distances.attention at distance 1); the store has no null distribution for it';
COMMENT ON COLUMN head_behaviour.corpus_duplicate IS 'mean attention on the run''s corpus from a position to earlier occurrences of the token at this position, summed over these occurrences. The mean is over the positions whose token has occurred earlier in the window';
COMMENT ON COLUMN head_behaviour.random_duplicate IS 'mean attention on repeated random tokens (see random_previous) from a position to earlier occurrences of the token at this position, summed over these occurrences. The mean is over the positions whose token has occurred earlier in the sequence';
COMMENT ON COLUMN head_behaviour.weights_duplicate IS 'matching score of the head (weight_stats.matching): near 1 if the head attends to other occurrences of the same token. The column weight_stats.matching_z compares it with its null distribution';
COMMENT ON COLUMN head_behaviour.corpus_induction IS 'mean attention on the run''s corpus from a position to the tokens directly after earlier occurrences of the token at this position, summed over these tokens. The mean is over the positions whose token has occurred earlier in the window';
COMMENT ON COLUMN head_behaviour.random_induction IS 'mean attention on repeated random tokens (see random_previous) from a position to the tokens directly after earlier occurrences of the token at this position, summed over these tokens. The mean is over the positions whose token has occurred earlier in the sequence';
COMMENT ON COLUMN head_behaviour.weights_induction IS 'how strongly the weights suggest that this head is an induction head. Each head of an earlier layer gives a product of two factors: its own weights_previous, and the z-score of its K-composition with this head under the null distribution (head_composition.z). The value is the largest of these products; NULL in layer 0, which has no earlier layer';
COMMENT ON COLUMN head_behaviour.corpus_first IS 'mean attention to the first position of the window, on the run''s corpus';
COMMENT ON COLUMN head_behaviour.random_first IS 'mean attention to the first position of the sequence, on repeated random tokens (see random_previous)';
COMMENT ON COLUMN head_behaviour.corpus_self IS 'mean attention of a position to itself, on the run''s corpus';
COMMENT ON COLUMN head_behaviour.random_self IS 'mean attention of a position to itself, on repeated random tokens (see random_previous)';
COMMENT ON COLUMN head_behaviour.corpus_entropy IS 'mean entropy of the attention probabilities, in nats, on the run''s corpus';
COMMENT ON COLUMN head_behaviour.random_entropy IS 'mean entropy of the attention probabilities, in nats, on repeated random tokens (see random_previous)';
COMMENT ON COLUMN head_behaviour.copying IS 'copying score of the head (weight_stats.copying): near 1 if the head promotes the tokens that it attends to';
COMMENT ON COLUMN head_behaviour.copying_z IS 'z-score of the head''s copying score under its null distribution, as in weight_stats.copying_z';

-- 10. Next-token neurons and their prompts; the inputs of neurons, at positions and on prompts ----

CREATE TYPE neuron_source AS ENUM ('embed', 'pos_embed', 'head', 'attn_bias', 'mlp', 'mlp_bias', 'b_in');

CREATE MACRO base.is_next_token(token) AS starts_with(token, ' ') AND length(token) > 2;
COMMENT ON MACRO base.is_next_token IS 'Whether `token` can be the next-token of a next-token neuron (Neo, Cohen and Barez 2024). It must begin a word: it must start with a space and, including the space, be longer than two characters.';

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
COMMENT ON TABLE base.next_token_neuron IS 'One row per next-token neuron or baseline neuron of a run for which `annotate next-token` made prompts (short texts that activate the neuron). The columns are settings of the command, and the number of prompts that it made. One transaction writes this row and the neuron''s prompts.';
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
COMMENT ON TABLE base.neuron_occurrence IS 'One row per neuron and position at which the neuron''s inputs were computed. There are two kinds of rows. If prompt is NULL, the row comes from `annotate inputs`, and the model read the whole window up to the position. Otherwise it comes from `annotate next-token`: the row is for a prompt of a neuron in base.next_token_neuron, and the model read only this prompt, which ends at the position.';
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
COMMENT ON TABLE base.neuron_input IS 'One row per row of base.neuron_occurrence, input of the neuron (reading) and source (such as a head): the term that the source adds to this input. If reading is pre, the input is the pre-activation; if it is pre_linear, the input is the linear input of a gated MLP.';
INSERT INTO base.catalogue VALUES ('neuron_input', 'run', ['run_id', 'layer', 'neuron', 'prompt', 'position_id', 'reading', 'component', 'source_layer', 'source_head'], ['prompt', 'reading', 'component', 'source_layer', 'source_head'], false, NULL);

CREATE VIEW neuron_inputs AS
SELECT i.run_id, i.position_id, i.layer, i.neuron, i.component, i.source_layer, i.source_head, i.value,
       o.pre_activation, o.activation, o.closure, i.reading, o.pre_linear, o.linear_closure
FROM base.neuron_input i JOIN base.neuron_occurrence o USING (run_id, position_id, layer, neuron)
WHERE i.prompt IS NULL AND o.prompt IS NULL;
COMMENT ON VIEW neuron_inputs IS 'Which sources (embeddings, heads, MLPs and biases) contribute to this neuron''s pre-activation at this position? One row per position, neuron, input of the neuron (reading) and source, for the positions and neurons for which `annotate inputs` was run. With the scale of the norm frozen, the values of the rows with reading = pre sum to the pre-activation (Neo, Cohen and Barez 2024).';
COMMENT ON COLUMN neuron_inputs.reading IS 'input of the neuron to which the source adds this term. pre: the pre-activation, read through W_gate in a gated MLP and through W_in otherwise; pre_linear: the linear input of a gated MLP, read through W_in, which multiplies the result of the activation function';
COMMENT ON COLUMN neuron_inputs.pre_linear IS 'linear input of the neuron in a gated MLP (hook_pre_linear), which multiplies the result of the activation function. The values of the rows with reading = pre_linear sum to it. NULL if the MLP is not gated';
COMMENT ON COLUMN neuron_inputs.linear_closure IS 'closure error of the linear input: the sum of the values of the rows with reading = pre_linear, minus the column `pre_linear`. NULL if the MLP is not gated';
COMMENT ON COLUMN neuron_inputs.component IS 'kind of the source. embed: the embedding; pos_embed: the position embedding, if it is learned; head: a head; attn_bias and mlp_bias: the biases of a layer; mlp: all neurons of a layer together; b_in: the neuron''s own bias, with the bias of the norm folded in (in a gated MLP, rows with reading = pre have the bias of the gate instead)';
COMMENT ON COLUMN neuron_inputs.source_layer IS 'layer of the source; NULL for embed, pos_embed and b_in. It is earlier than the neuron''s own layer, except that heads and attn_bias can be in the same layer as the neuron if the model''s blocks are sequential (the MLP reads the attention''s output)';
COMMENT ON COLUMN neuron_inputs.value IS 'term that the source adds to the neuron''s input that `reading` names (the pre-activation or the linear input), in the units of this input';
COMMENT ON COLUMN neuron_inputs.pre_activation IS 'pre-activation of the neuron at the position (hook_pre, before the activation function), not rounded. All rows of the same neuron and position have the same value';
COMMENT ON COLUMN neuron_inputs.activation IS 'activation of the neuron at the position (hook_post, after the activation function), not rounded. All rows of the same neuron and position have the same value';
COMMENT ON COLUMN neuron_inputs.closure IS 'closure error of the pre-activation: the sum of the values of the rows with reading = pre, minus the column `pre_activation`. All rows of the same neuron and position have the same value';

CREATE VIEW next_token_neurons AS
SELECT l.run_id, l.layer, l.neuron, l.is_baseline, v.token AS next_token, v.congruence,
       l.windows, l.max_tokens, l.share, l.std_threshold, l.prompts
FROM base.next_token_neuron l JOIN base.run r USING (run_id)
LEFT JOIN neuron_vocabulary v
  ON v.model_id = r.model_id AND v.layer = l.layer AND v.neuron = l.neuron AND v.direction = 'promotes' AND v.rank = 1;
COMMENT ON VIEW next_token_neurons IS 'Which next-token neurons and baseline neurons have prompts? A prompt is a short text that activates the neuron. One row per neuron for which `annotate next-token` was run.';
COMMENT ON COLUMN next_token_neurons.is_baseline IS 'whether the neuron is a baseline neuron; otherwise it is a next-token neuron. For each next-token neuron, one baseline neuron of the same layer is drawn at random, among the four neurons whose mean activation is nearest to that of the next-token neuron. Neurons whose most promoted token begins a word are left out before the draw';
COMMENT ON COLUMN next_token_neurons.congruence IS 'congruence of the neuron with its next-token (the token that it promotes most), in centred logits per unit of activation at σ = 1; weight_stats.congruence_z compares it with its null distribution';
COMMENT ON COLUMN next_token_neurons.windows IS 'maximum number of windows from which the neuron''s prompts were made, one prompt per window; the windows with the neuron''s highest activations are taken (see neuron_windows)';
COMMENT ON COLUMN next_token_neurons.max_tokens IS 'maximum length of a prompt, in tokens, without a BOS; if a window would need a longer prompt, no prompt is made from it';
COMMENT ON COLUMN next_token_neurons.share IS 'minimum activation that the neuron must have on a prompt, as a fraction (0 to 1) of its activation in the whole window from which the prompt is made';
COMMENT ON COLUMN next_token_neurons.std_threshold IS 'threshold for a head to count as active on a prompt (see active_heads): the head''s term of the neuron''s pre-activation must exceed the mean term of all heads before the neuron by more than this number of standard deviations';
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
COMMENT ON VIEW prompts IS 'What is the shortest context that activates this neuron? One row per prompt of a next-token or baseline neuron. A prompt is made from one window in which the neuron''s activation is high. It ends at the position where the activation is largest, and it is the shortest text ending there on which the activation is at least next_token_neurons.share times the activation in the whole window.';
COMMENT ON COLUMN prompts.prompt IS 'id of the prompt among the neuron''s prompts: the rank, in neuron_windows, of the window from which the prompt is made';
COMMENT ON COLUMN prompts.duplicate_of IS 'id of the neuron''s first prompt that has the same tokens as this prompt; NULL if this prompt is the first one, so WHERE duplicate_of IS NULL selects distinct prompts';
COMMENT ON COLUMN prompts.first_position_id IS 'position_id of the first token of the prompt''s text';
COMMENT ON COLUMN prompts.tokens IS 'number of tokens of the prompt that the model read, including a BOS if the run has one';
COMMENT ON COLUMN prompts.window_activation IS 'activation of the neuron (hook_post) at the prompt''s last token when the model reads the whole window, as in neuron_windows';
COMMENT ON COLUMN prompts.activation IS 'activation of the neuron (hook_post) at the prompt''s last token when the model reads the prompt alone';
COMMENT ON COLUMN prompts.pre_activation IS 'pre-activation of the neuron at the prompt''s last token when the model reads the prompt alone';
COMMENT ON COLUMN prompts.closure IS 'closure error of the pre-activation: the sum of the prompt''s values in prompt_inputs with reading = pre, minus the column `pre_activation`, in units of the pre-activation';

CREATE VIEW prompt_inputs AS
SELECT e.run_id, e.layer, e.neuron, e.prompt, e.component, e.source_layer, e.source_head, e.value, e.reading
FROM base.neuron_input e WHERE e.prompt IS NOT NULL;
COMMENT ON VIEW prompt_inputs IS 'Which sources (embeddings, heads, MLPs and biases) contribute to this neuron''s pre-activation at the last token of a prompt when the model reads the prompt alone? One row per prompt, input of the neuron (reading) and source. The columns have the same meaning as in neuron_inputs.';
COMMENT ON COLUMN prompt_inputs.reading IS 'input of the neuron to which the source adds this term, pre or pre_linear (see neuron_inputs.reading)';
COMMENT ON COLUMN prompt_inputs.value IS 'term that the source adds to the neuron''s input that `reading` names (the pre-activation or the linear input), in the units of this input';

CREATE VIEW base.head_share AS
SELECT i.*, (i.value - avg(i.value) OVER of_prompt) / nullif(stddev_pop(i.value) OVER of_prompt, 0) AS above_mean
FROM prompt_inputs i WHERE i.component = 'head' AND i.reading = 'pre'
WINDOW of_prompt AS (PARTITION BY i.run_id, i.layer, i.neuron, i.prompt);
COMMENT ON VIEW base.head_share IS 'One row per prompt and head before the neuron (a head whose output the neuron reads). above_mean: how far the head''s term of the neuron''s pre-activation is above the mean term of all heads before the neuron on this prompt, in standard deviations of these terms.';

CREATE MACRO active_heads(std_threshold := NULL, run := NULL) AS TABLE
SELECT s_.run_id, s_.layer, s_.neuron, s_.prompt, s_.source_layer, s_.source_head, s_.value
FROM base.head_share s_ JOIN base.next_token_neuron l_ USING (run_id, layer, neuron)
WHERE s_.run_id = base.chosen_run(run) AND s_.above_mean > coalesce(std_threshold, l_.std_threshold)
ORDER BY s_.layer, s_.neuron, s_.prompt, s_.value DESC;
COMMENT ON MACRO TABLE active_heads IS 'Which heads activate a neuron on a prompt? One row per prompt and active head. A head is active if its term of the neuron''s pre-activation exceeds the mean term of all heads before the neuron by more than `std_threshold` standard deviations (Neo, Cohen and Barez 2024). If `std_threshold` is NULL, as by default, the threshold of each neuron is taken from the column next_token_neurons.std_threshold; it is 2 unless `annotate next-token` was given another one. With fewer than 6 heads before the neuron, no term can exceed the mean by more than 2 standard deviations.';

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
COMMENT ON MACRO TABLE relevant_heads IS 'Which heads are active on some of this neuron''s prompts, but not on the others? One row per neuron and head that is active on a fraction from `low` to `high` of the neuron''s distinct prompts (see active_heads). is_baseline: whether the neuron is a baseline neuron; otherwise it is a next-token neuron.';

-- 11. Heads that activate next-token neurons on some prompts: ablations and explanations ----------

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
COMMENT ON TABLE base.head_prompt IS 'One row per neuron in base.next_token_neuron, relevant head of this neuron (active on some of its prompts, but not on all) and distinct prompt of this neuron. is_active: whether the head is active on the prompt. probability: the probability of the neuron''s next-token (the token that the neuron promotes most) after the prompt. ablated_activation and ablated_probability: the neuron''s activation and the probability of its next-token when the head is ablated.';
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
COMMENT ON TABLE base.ablation IS 'One row per neuron in base.next_token_neuron and relevant head of this neuron (a head that is active on some of the neuron''s prompts, but not on all). The columns are the permutation p-values of the two Kolmogorov-Smirnov distances in the view `ablations`. One transaction writes this row and the head''s rows of base.head_prompt.';
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
COMMENT ON TABLE base.explanation IS 'One row per explanation of when a relevant head of a neuron is active; a relevant head is active on some of the neuron''s prompts, but not on all. There is one explanation for each combination of neuron, relevant head, method, language model and version of the instructions for the language model (prompt_version). A language model''s explanation is committed as soon as it arrives, so that it is never paid for twice.';
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
COMMENT ON TABLE base.explanation_answer IS 'One row per explanation and held-out prompt. answer: whether the head is predicted to be active on the prompt, from the explanation alone; NULL if the language model gave no readable answer.';
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
COMMENT ON COLUMN head_prompts.is_held_out IS 'whether the prompt is held out: explanations of the head are made from the other prompts and scored on the held-out ones. About half of the active prompts and half of the inactive ones are held out, drawn at random; near-duplicates are held out together or not at all. Two prompts are near-duplicates if their last n tokens are equal, where n is half the length of the shorter prompt, rounded up';
COMMENT ON COLUMN head_prompts.activation IS 'activation of the neuron after the activation function at the prompt''s last token';
COMMENT ON COLUMN head_prompts.ablated_activation IS 'activation of the neuron after the activation function at the prompt''s last token when the head is zero-ablated. The head''s output z W_O is set to 0 at every position; the layer''s attention bias, with the value biases folded in, stays';
COMMENT ON COLUMN head_prompts.probability IS 'probability of the neuron''s next-token (the token that the neuron promotes most) after the prompt''s last token';
COMMENT ON COLUMN head_prompts.ablated_probability IS 'probability of the neuron''s next-token (the token that the neuron promotes most) after the prompt''s last token, when the head is zero-ablated';

-- base.margin multiplies the standard error by the 97.5 % quantile of Student's t distribution.
-- For 1 to 4 degrees of freedom the quantile is in a list.
-- For more, Fisher's series expansion (1926) gives it with a relative error of at most 0.02 %.
CREATE MACRO base.margin(error, freedom) AS error * CASE
    WHEN freedom BETWEEN 1 AND 4 THEN [12.706205, 4.302653, 3.182446, 2.776445][freedom::INTEGER]
    WHEN freedom > 4 THEN 1.959964 + 2.372271 / freedom + 2.822499 / freedom ** 2 + 2.55585 / freedom ** 3 + 1.589534 / freedom ** 4 END;
COMMENT ON MACRO base.margin IS 'Half the width of the 95 % confidence interval of a mean, from the mean''s standard error (`error`) and its degrees of freedom (`freedom`); NULL for 0 degrees of freedom.';
CREATE MACRO base.margin_of(std, n) AS base.margin(std / sqrt(n), n - 1);
COMMENT ON MACRO base.margin_of IS 'Half the width of the 95 % confidence interval of the mean of `n` values, from their sample standard deviation (`std`).';

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
COMMENT ON VIEW ablations IS 'Does the neuron need this head on the prompts where the head is active, and only there? One row per neuron and relevant head (see relevant_heads). The columns say how much the neuron''s activation and the probability of its next-token decrease when the head is zero-ablated, separately for the prompts on which the head is active and for the others (Neo, Cohen and Barez 2024).';
COMMENT ON COLUMN ablations.active_prompts IS 'number of distinct prompts on which the head is active: sample size of the columns …_active';
COMMENT ON COLUMN ablations.inactive_prompts IS 'number of distinct prompts on which the head is not active: sample size of the columns …_inactive';
COMMENT ON COLUMN ablations.activation_fall_active IS 'mean decrease of the neuron''s activation (after the activation function) when the head is ablated, over the prompts on which the head is active';
COMMENT ON COLUMN ablations.activation_fall_inactive IS 'mean decrease of the neuron''s activation (after the activation function) when the head is ablated, over the prompts on which the head is not active';
COMMENT ON COLUMN ablations.activation_margin_active IS 'half the width of the 95 % confidence interval of the mean activation_fall_active, by Student''s t distribution with one value per prompt; NULL with fewer than two prompts';
COMMENT ON COLUMN ablations.activation_margin_inactive IS 'half the width of the 95 % confidence interval of the mean activation_fall_inactive, by Student''s t distribution with one value per prompt; NULL with fewer than two prompts';
COMMENT ON COLUMN ablations.activation_distance IS 'Kolmogorov-Smirnov distance, 0 to 1, between two samples: the decreases of the activation when the head is ablated, on the prompts on which the head is active, and the same on the other prompts. NULL if one of the samples is empty';
COMMENT ON COLUMN ablations.activation_p IS 'exact p-value of activation_distance, by a permutation test. The labels active and inactive are assigned to the prompts in every possible way, with the number of active prompts unchanged. The p-value is the fraction of these ways in which the distance is at least as large as activation_distance';
COMMENT ON COLUMN ablations.probability_fall_active IS 'mean decrease of the probability of the neuron''s next-token (the token that it promotes most) when the head is ablated, over the prompts on which the head is active';
COMMENT ON COLUMN ablations.probability_fall_inactive IS 'mean decrease of the probability of the neuron''s next-token (the token that it promotes most) when the head is ablated, over the prompts on which the head is not active';
COMMENT ON COLUMN ablations.probability_margin_active IS 'half the width of the 95 % confidence interval of the mean probability_fall_active, by Student''s t distribution with one value per prompt; NULL with fewer than two prompts';
COMMENT ON COLUMN ablations.probability_margin_inactive IS 'half the width of the 95 % confidence interval of the mean probability_fall_inactive, by Student''s t distribution with one value per prompt; NULL with fewer than two prompts';
COMMENT ON COLUMN ablations.probability_distance IS 'Kolmogorov-Smirnov distance, 0 to 1, between two samples: the decreases of the probability when the head is ablated, on the prompts on which the head is active, and the same on the other prompts. NULL if one of the samples is empty';
COMMENT ON COLUMN ablations.probability_p IS 'exact p-value of probability_distance, by a permutation test. The labels active and inactive are assigned to the prompts in every possible way, with the number of active prompts unchanged. The p-value is the fraction of these ways in which the distance is at least as large as probability_distance';

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
COMMENT ON VIEW explanations IS 'Which explanations in words are there of when a relevant head is active (see relevant_heads)? One row per explanation. There is one for each combination of neuron (next-token or baseline), relevant head of the neuron, method, language model and version of the instructions for the language model (prompt_version).';
COMMENT ON COLUMN explanations.method IS 'method of the explanation. decision_list: a list of rules about the tokens of a prompt, where the first rule that applies decides; language_model: a text written by a language model';
COMMENT ON COLUMN explanations.why_none IS 'reason why the explanation has no text; NULL if it has a text';
COMMENT ON COLUMN explanations.answers IS 'number of held-out prompts for which the explanation was used so far to predict whether the head is active; NULL if there are none';
COMMENT ON COLUMN explanations.tokens_in IS 'number of input tokens of all requests to the language model, both for the explanation''s text and for its answers; NULL if the endpoint did not report the number, and for decision lists';
COMMENT ON COLUMN explanations.tokens_out IS 'number of tokens that the language model wrote in reply to all requests, both for the explanation''s text and for its answers; NULL if the endpoint did not report the number, and for decision lists';
COMMENT ON COLUMN explanations.cost IS 'cost of all requests to the language model, both for the explanation''s text and for its answers, at the prices that the user gave; NULL if no prices were given, and for decision lists';
COMMENT ON COLUMN explanations.seconds IS 'seconds that it took to make the explanation and to apply it to the held-out prompts, including the time spent waiting for the endpoint';

CREATE VIEW explanation_answers AS
SELECT e.explanation_id, e.run_id, e.layer, e.neuron, e.source_layer, e.source_head, a.prompt, h.is_active, a.answer
FROM base.explanation_answer a JOIN base.explanation e USING (explanation_id)
JOIN base.head_prompt h USING (run_id, layer, neuron, source_layer, source_head, prompt);
COMMENT ON VIEW explanation_answers IS 'Is a head active on a held-out prompt, and what does an explanation of the head predict? One row per explanation and held-out prompt.';
COMMENT ON COLUMN explanation_answers.is_active IS 'whether the head is really active on the prompt (see head_prompts.is_active)';
COMMENT ON COLUMN explanation_answers.answer IS 'whether the head is predicted to be active on the prompt, from the explanation alone; NULL if the language model gave no readable answer in two attempts';

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
COMMENT ON VIEW base.explanation_score IS 'One row per scored explanation: the columns of explanation_scores, except those about the baseline (baseline and baseline_…).';

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
       CASE WHEN neurons > 1 THEN greatest(mean - base.margin(error, neurons - 1), 0) END AS low, -- the CASE gives NULL for a single neuron; greatest alone would give 0, because it ignores NULL
       CASE WHEN neurons > 1 THEN least(mean + base.margin(error, neurons - 1), 1) END AS high
FROM grouped;
COMMENT ON VIEW explanation_means IS 'How well do explanations predict, on average, on which prompts a head is active? One row per run, method, language model, version of the instructions for the language model, kind of neuron (next-token or baseline) and score (figure).';
COMMENT ON COLUMN explanation_means.is_baseline IS 'whether the mean is over explanations about baseline neurons; otherwise it is over explanations about next-token neurons';
COMMENT ON COLUMN explanation_means.figure IS 'name of the score that is averaged, which is a column of explanation_scores: balanced_accuracy, precision, npv or f1';
COMMENT ON COLUMN explanation_means.heads IS 'number of explanations over which the score is averaged, one for each head of a neuron. An explanation counts if it has answers for at least one active and one inactive prompt, and if its score is not NULL';
COMMENT ON COLUMN explanation_means.neurons IS 'number of neurons to which the explained heads belong. The confidence interval uses this number as its sample size, because the heads of a neuron share the neuron''s prompts';
COMMENT ON COLUMN explanation_means.active_prompts IS 'number of held-out prompts that have an answer and on which the explained head is active, summed over the explanations';
COMMENT ON COLUMN explanation_means.inactive_prompts IS 'number of held-out prompts that have an answer and on which the explained head is not active, summed over the explanations';
COMMENT ON COLUMN explanation_means.mean IS 'mean of the score that the column `figure` names, over the explanations, 0 to 1';
COMMENT ON COLUMN explanation_means.error IS 'standard error of the mean, clustered by neuron, because the heads of a neuron share its prompts. It is never smaller than the error that the small number of prompts causes by itself; NULL for a single neuron';
COMMENT ON COLUMN explanation_means.low IS 'lower end of the 95 % confidence interval of the mean, by Student''s t distribution with neurons − 1 degrees of freedom, but at least 0; NULL for a single neuron';
COMMENT ON COLUMN explanation_means.high IS 'upper end of the 95 % confidence interval of the mean, by Student''s t distribution with neurons − 1 degrees of freedom, but at most 1; NULL for a single neuron';

CREATE VIEW explanation_scores AS
SELECT s.*, b.mean AS baseline, b.error AS baseline_error, b.low AS baseline_low, b.high AS baseline_high,
       b.heads AS baseline_heads, b.neurons AS baseline_neurons
FROM base.explanation_score s
LEFT JOIN explanation_means b
  ON b.is_baseline AND b.figure = 'balanced_accuracy' AND b.run_id = s.run_id AND b.method = s.method
 AND b.language_model IS NOT DISTINCT FROM s.language_model AND b.prompt_version IS NOT DISTINCT FROM s.prompt_version;
COMMENT ON VIEW explanation_scores IS 'Does an explanation predict on which held-out prompts the head is active, and is it better than the explanations of baseline neurons? One row per scored explanation, computed from explanation_answers. `Store.explanations` and `annotate explain` return more columns: 95 % confidence intervals, which are computed by random sampling, and whether the score beats the baseline.';
COMMENT ON COLUMN explanation_scores.is_baseline IS 'whether the neuron is a baseline neuron. The columns whose names begin with baseline are about all baseline neurons of the run, not about this neuron';
COMMENT ON COLUMN explanation_scores.true_active IS 'number of held-out prompts on which the head is active and predicted to be active';
COMMENT ON COLUMN explanation_scores.false_active IS 'number of held-out prompts on which the head is not active but predicted to be active';
COMMENT ON COLUMN explanation_scores.true_inactive IS 'number of held-out prompts on which the head is not active and predicted not to be active';
COMMENT ON COLUMN explanation_scores.false_inactive IS 'number of held-out prompts on which the head is active but predicted not to be active';
COMMENT ON COLUMN explanation_scores.unanswered IS 'number of held-out prompts for which the language model gave no readable answer; no score includes these prompts';
COMMENT ON COLUMN explanation_scores.active_prompts IS 'number of held-out prompts that have an answer and on which the head is active; it is the denominator of the true positive rate (TPR)';
COMMENT ON COLUMN explanation_scores.inactive_prompts IS 'number of held-out prompts that have an answer and on which the head is not active; it is the denominator of the true negative rate (TNR)';
COMMENT ON COLUMN explanation_scores.balanced_accuracy IS 'balanced accuracy: the mean of the true positive rate and the true negative rate, 0 to 1; guessing at random gives 0.5. NULL until at least one active and one inactive prompt have an answer';
COMMENT ON COLUMN explanation_scores.precision IS 'precision, 0 to 1: of the held-out prompts on which the head is predicted to be active, the fraction on which it is active. NULL if the head is predicted to be active on none';
COMMENT ON COLUMN explanation_scores.npv IS 'negative predictive value, 0 to 1: of the held-out prompts on which the head is predicted not to be active, the fraction on which it is not active. NULL if the head is predicted to be active on all';
COMMENT ON COLUMN explanation_scores.f1 IS 'F1 score, the harmonic mean of precision and true positive rate, 0 to 1';
COMMENT ON COLUMN explanation_scores.baseline IS 'mean balanced accuracy of the run''s explanations about baseline neurons. Only explanations with the same method, language model and version of the instructions (prompt_version) as this explanation count; NULL if no such explanation was scored';
COMMENT ON COLUMN explanation_scores.baseline_error IS 'standard error of the mean in the column `baseline`, computed as explanation_means.error; NULL if the mean is over a single neuron';
COMMENT ON COLUMN explanation_scores.baseline_low IS 'lower end of the 95 % confidence interval of the mean in the column `baseline`';
COMMENT ON COLUMN explanation_scores.baseline_high IS 'upper end of the 95 % confidence interval of the mean in the column `baseline`';
COMMENT ON COLUMN explanation_scores.baseline_heads IS 'number of explanations over which the mean in the column `baseline` is taken';
COMMENT ON COLUMN explanation_scores.baseline_neurons IS 'number of baseline neurons over which the mean in the column `baseline` is taken';

CREATE VIEW published_scores AS
SELECT * FROM (VALUES ('Pythia-160m', false, 0.621::DOUBLE), ('GPT-2 small', false, 0.650), ('GPT-2 medium', false, 0.610),
                      ('GPT-2 large', false, 0.575), ('GPT-2 large', true, 0.558)) p(model, is_baseline, balanced_accuracy);
COMMENT ON VIEW published_scores IS 'Which balanced accuracies did Neo, Cohen and Barez (2024) publish for explanations by a language model? One row per model and kind of neuron (next-token neurons, or neurons drawn at random).';
COMMENT ON COLUMN published_scores.is_baseline IS 'whether the neurons were drawn at random, as a baseline; otherwise they are next-token neurons';
COMMENT ON COLUMN published_scores.balanced_accuracy IS 'mean balanced accuracy of explanations by a language model, as published by Neo, Cohen and Barez (2024); computed as explanation_scores.balanced_accuracy. The store does not have the number of heads over which the mean was taken';

-- 12. Ablations of neurons and heads; contrasts between an answer and a distractor ----------------

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
COMMENT ON TABLE base.ablation_effect IS 'One row per ablation and target for which `annotate ablate` was run. An ablation replaces the outputs of a set of units (heads and neurons) and measures the prediction at a position. The target is the token whose logit is measured, or a pair of tokens whose logits are subtracted.';
INSERT INTO base.catalogue VALUES ('ablation_effect', 'run', ['run_id', 'position_id', 'units', 'at_position_id', 'replaced_by', 'draws', 'seed', 'target_token_id', 'minus_token_id'], [], false, NULL);

CREATE VIEW ablation_effects AS
SELECT e.run_id, e.position_id, e.units, e.at_position_id, e.replaced_by, e.draws, e.seed,
       e.target_token_id, t.token AS target_token, e.minus_token_id, m.token AS minus_token,
       e.logit, e.ablated_logit, e.logit - e.ablated_logit AS total_effect, e.standard_error, e.direct_effect,
       e.logprob, e.ablated_logprob, e.target_rank, e.ablated_rank, e.kl
FROM base.ablation_effect e JOIN base.run r USING (run_id) JOIN base.model o USING (model_id)
LEFT JOIN base.token t ON t.tokenizer_id = o.tokenizer_id AND t.token_id = e.target_token_id
LEFT JOIN base.token m ON m.tokenizer_id = o.tokenizer_id AND m.token_id = e.minus_token_id;
COMMENT ON VIEW ablation_effects IS 'How does this prediction change if the outputs of these units (heads and neurons) are replaced? One row per ablation (a position, a set of units and a replacement) and target for which `annotate ablate` was run. The target is the token whose logit is measured. The model runs again with the replaced outputs, so total_effect includes the changes of later components and of the final scale σ.';
COMMENT ON COLUMN ablation_effects.units IS 'names of the units (heads and neurons) that are ablated together, joined by +, such as L3H2+L3N7; L3attn stands for all heads of layer 3 and L3mlp for all its neurons. The layer''s biases stay: b_O, with the value biases folded in, and b_out';
COMMENT ON COLUMN ablation_effects.at_position_id IS 'position_id of the token at which the outputs are replaced; NULL if they are replaced at all tokens of the window';
COMMENT ON COLUMN ablation_effects.replaced_by IS 'what replaces the outputs. zero: 0; mean: their mean over the positions of randomly drawn windows of the run; resample: their values at a random position of such windows';
COMMENT ON COLUMN ablation_effects.draws IS 'number of random draws of the replacement; all values with the ablation are averaged over these draws. 1 if replaced_by is zero or mean';
COMMENT ON COLUMN ablation_effects.seed IS 'random seed that chooses the windows and positions from which the replacement is taken, if replaced_by is mean or resample';
COMMENT ON COLUMN ablation_effects.target_token_id IS 'id of the target token, whose logit is measured';
COMMENT ON COLUMN ablation_effects.minus_token_id IS 'id of a second token, whose logit is subtracted from the target token''s logit; NULL if the logit of the target token alone is measured';
COMMENT ON COLUMN ablation_effects.logit IS 'centred logit of the target token without the ablation, before a soft-cap; if minus_token_id is set, that logit minus the logit of the token minus_token_id';
COMMENT ON COLUMN ablation_effects.ablated_logit IS 'centred logit of the target token with the ablation, before a soft-cap; if minus_token_id is set, that logit minus the logit of the token minus_token_id';
COMMENT ON COLUMN ablation_effects.total_effect IS 'logit − ablated_logit, in logits. It includes the direct effect, effects through later components, and the change of the final scale σ';
COMMENT ON COLUMN ablation_effects.standard_error IS 'standard error of total_effect over the random draws of the replacement, in logits; NULL with one draw';
COMMENT ON COLUMN ablation_effects.direct_effect IS 'direct effect of the original outputs minus the direct effect of their replacements, in logits. Only outputs at position_id itself have a direct effect on the prediction there, so the value is 0 if at_position_id is an earlier token';
COMMENT ON COLUMN ablation_effects.logprob IS 'log-probability of the target token without the ablation, in nats; NULL if minus_token_id is set, because a difference of two logits has no probability';
COMMENT ON COLUMN ablation_effects.ablated_logprob IS 'log-probability of the target token with the ablation, in nats, averaged over the draws; NULL if minus_token_id is set, because a difference of two logits has no probability';
COMMENT ON COLUMN ablation_effects.target_rank IS 'rank of the target token in the prediction without the ablation, 1 for the most likely token; NULL if minus_token_id is set, because a difference of two logits has no rank';
COMMENT ON COLUMN ablation_effects.ablated_rank IS 'rank of the target token in the prediction with the ablation, 1 for the most likely token, averaged over the draws; NULL if minus_token_id is set, because a difference of two logits has no rank';
COMMENT ON COLUMN ablation_effects.kl IS 'Kullback-Leibler divergence KL(P ‖ Q) over the whole vocabulary, in nats, averaged over the draws. P is the predicted distribution without the ablation, and Q is the predicted distribution with it';

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
COMMENT ON TABLE base.unit_effect IS 'One row per unit (head or neuron), effect_method (attribution or ablation) and settings with which `annotate effects` was run: direct and total effects of the unit on the next token, averaged over a sample of the run''s positions.';
INSERT INTO base.catalogue VALUES ('unit_effect', 'run', ['run_id', 'kind', 'layer', 'unit', 'effect_method', 'replaced_by', 'sample', 'seed'], ['effect_method', 'kind', 'layer', 'unit'], false, NULL);

CREATE VIEW unit_effects AS
SELECT * FROM base.unit_effect;
COMMENT ON VIEW unit_effects IS 'How large are the direct and the total effects of each head and neuron on the next token, averaged over a sample of the run''s positions? One row per unit (head or neuron), effect_method and settings with which `annotate effects` was run. A total effect is the next token''s centred logit minus the same logit with the unit''s output replaced at all tokens of the window.';
COMMENT ON COLUMN unit_effects.unit IS 'number of the head or neuron in its layer, from 0';
COMMENT ON COLUMN unit_effects.effect_method IS 'how total effects were computed. attribution: attribution patching, the first-order estimate from one backward pass; ablation: the exact effect, from running the model again with the unit ablated';
COMMENT ON COLUMN unit_effects.replaced_by IS 'what replaces the unit''s outputs. zero: 0; mean: their mean over all tokens of the sample''s windows';
COMMENT ON COLUMN unit_effects.sample IS 'number of positions that were requested as the sample; the column `positions` has the number that were taken';
COMMENT ON COLUMN unit_effects.seed IS 'random seed that chooses the positions of the sample, and the units that are drawn at random (is_random)';
COMMENT ON COLUMN unit_effects.is_random IS 'whether the unit was drawn at random among all units of its kind (heads or neurons) to be ablated; otherwise it was ablated because its estimated total effect is large. NULL if effect_method is attribution, because every unit has a row then';
COMMENT ON COLUMN unit_effects.positions IS 'number of sampled positions (n), drawn at random among the run''s positions that have a next token';
COMMENT ON COLUMN unit_effects.documents IS 'number of documents that contain the sampled positions';
COMMENT ON COLUMN unit_effects.mean_direct IS 'mean direct effect of the unit over the sampled positions, in logits. At each position it is the direct effect of the unit''s output minus the direct effect of its replacement';
COMMENT ON COLUMN unit_effects.mean_abs_direct IS 'mean absolute direct effect of the unit over the sampled positions, in logits. At each position it is the absolute value of the direct effect of the unit''s output minus the direct effect of its replacement';
COMMENT ON COLUMN unit_effects.mean_total IS 'mean total effect of the unit over the sampled positions, in logits';
COMMENT ON COLUMN unit_effects.mean_abs_total IS 'mean absolute total effect of the unit over the sampled positions, in logits';
COMMENT ON COLUMN unit_effects.total_low IS 'lower end of the 95 % confidence interval of mean_total, in logits, by a bootstrap that resamples documents; NULL with fewer than two documents';
COMMENT ON COLUMN unit_effects.total_high IS 'upper end of the 95 % confidence interval of mean_total, in logits, by a bootstrap that resamples documents; NULL with fewer than two documents';
COMMENT ON COLUMN unit_effects.p IS 'two-sided p-value of the hypothesis that the mean total effect is 0, by a t-test whose standard error comes from the bootstrap over documents; NULL with fewer than two documents';
COMMENT ON COLUMN unit_effects.q IS 'smallest false discovery rate at which the unit is significant: the p-value adjusted over all units of its kind (heads or neurons) by the method of Benjamini and Hochberg (1995). NULL if effect_method is ablation, because only a few chosen units are ablated';
COMMENT ON COLUMN unit_effects.correlation IS 'Pearson''s r between the unit''s direct effect and its total effect, over the sampled positions; NULL if either effect is the same at all positions';
COMMENT ON COLUMN unit_effects.same_sign IS 'fraction, 0 to 1, of the sampled positions at which the unit''s direct effect and its total effect have the same sign';

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
COMMENT ON TABLE base.contrast IS 'One row per document that has an answer and a distractor: one prediction, whose difference of logits (answer − distractor) is decomposed. The columns embed, pos_embed and final_bias are terms of this difference. size: the sum of the absolute values of all its terms, in logits; the rounding error of the difference is in proportion to size.';
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
COMMENT ON TABLE base.contrast_layer IS 'One row per contrast (a row of base.contrast) and layer: direct effects on the answer minus direct effects on the distractor, in logits. attn: the sum over the layer''s heads and its attention bias. mlp: the sum over the layer''s neurons and its MLP bias. mlp_remainder: the sum over those neurons of the layer that have no row in base.contrast_neuron. neuron_limit: an upper bound of |effect| for each of these neurons; 0 if there are none.';
INSERT INTO base.catalogue VALUES ('contrast_layer', 'run', ['run_id', 'document_id', 'layer'], ['document_id', 'layer'], false, NULL);

CREATE TABLE base.contrast_head (
    run_id      INTEGER  NOT NULL,
    document_id BIGINT   NOT NULL,
    layer       UTINYINT NOT NULL,
    head        UTINYINT NOT NULL,
    effect      DOUBLE   NOT NULL
);
COMMENT ON TABLE base.contrast_head IS 'One row per contrast (a row of base.contrast) and head. effect: the direct effect of the head on the answer minus its direct effect on the distractor, in logits.';
INSERT INTO base.catalogue VALUES ('contrast_head', 'run', ['run_id', 'document_id', 'layer', 'head'], ['layer', 'head', 'document_id'], false, NULL);

CREATE TABLE base.contrast_neuron (
    run_id      INTEGER  NOT NULL,
    document_id BIGINT   NOT NULL,
    layer       UTINYINT NOT NULL,
    neuron      UINTEGER NOT NULL,
    activation  DOUBLE   NOT NULL,
    effect      DOUBLE   NOT NULL
);
COMMENT ON TABLE base.contrast_neuron IS 'One row per contrast (a row of base.contrast) and neuron, for the neurons of each layer with the largest |effect|. effect: the direct effect of the neuron on the answer minus its direct effect on the distractor, in logits.';
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
COMMENT ON TABLE base.contrast_source IS 'One row per contrast (a row of base.contrast), head and source position, for the pairs of head and source with the largest |effect| in the contrast. effect: the direct effect of what the head reads from the source; it is the effect on the answer minus the effect on the distractor, in logits.';
INSERT INTO base.catalogue VALUES ('contrast_source', 'run', ['run_id', 'document_id', 'layer', 'head', 'source_position_id'], ['document_id', 'layer', 'head', 'source_position_id'], false, NULL);

CREATE VIEW contrasts AS
SELECT c.run_id, c.document_id, c.position_id, c.answer_token_id, a.token AS answer, c.distractor_token_id, b.token AS distractor,
       c.logit_difference, c.logit_difference > 0 AS is_right, c.answer_logprob, c.distractor_logprob, c.answer_rank, d.metadata
FROM base.contrast c JOIN base.run r USING (run_id) JOIN base.model m USING (model_id) JOIN base.document d USING (document_id)
LEFT JOIN base.token a ON a.tokenizer_id = m.tokenizer_id AND a.token_id = c.answer_token_id
LEFT JOIN base.token b ON b.tokenizer_id = m.tokenizer_id AND b.token_id = c.distractor_token_id;
COMMENT ON VIEW contrasts IS 'How does the model choose between an answer and a distractor? One row per document of a run that was ingested with --answer-column and --distractor-column. Join it with contrast_components, contrast_heads, contrast_neurons or contrast_sources on run_id and document_id.';
COMMENT ON COLUMN contrasts.position_id IS 'position whose prediction is decomposed. It is the last position of the document or, with --answer-position, the last position whose token ends within the document''s first n characters, where n is the document''s value in the metadata column that --answer-position names';
COMMENT ON COLUMN contrasts.logit_difference IS 'logit of the answer minus logit of the distractor, before a soft-cap';
COMMENT ON COLUMN contrasts.is_right IS 'whether the logit of the answer is higher than the logit of the distractor';
COMMENT ON COLUMN contrasts.answer_logprob IS 'log-probability of the answer, in nats';
COMMENT ON COLUMN contrasts.distractor_logprob IS 'log-probability of the distractor, in nats';
COMMENT ON COLUMN contrasts.answer_rank IS 'rank of the answer among real tokens (padding ids excluded); 1 is the most likely token';
COMMENT ON COLUMN contrasts.metadata IS 'metadata of the document, as JSON; for example, GROUP BY metadata->>''template'' groups the contrasts by the metadata column `template`';

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
COMMENT ON VIEW contrast_components IS 'What is the direct effect of each component on the difference of two logits (answer − distractor)? One row per contrast (a row of the view `contrasts`) and component. The effects in one contrast sum to its logit_difference.';
COMMENT ON COLUMN contrast_components.layer IS 'layer of the component; NULL for embed, pos_embed and final_bias';
COMMENT ON COLUMN contrast_components.effect IS 'direct effect of the component on the answer minus its direct effect on the distractor, in logits';

CREATE VIEW contrast_heads AS
SELECT run_id, document_id, layer, head, effect FROM base.contrast_head;
COMMENT ON VIEW contrast_heads IS 'What is the direct effect of each head on the difference of two logits (answer − distractor)? One row per contrast (a row of the view `contrasts`) and head. In each layer, the effects of the heads and of the attention bias (contrast_details.attn_bias) sum to the effect of the component attn in contrast_components.';
COMMENT ON COLUMN contrast_heads.effect IS 'direct effect of the head on the answer minus its direct effect on the distractor, in logits';

CREATE VIEW contrast_neurons AS
SELECT run_id, document_id, layer, neuron, activation, effect FROM base.contrast_neuron;
COMMENT ON VIEW contrast_neurons IS 'What is the direct effect of a neuron on the difference of two logits (answer − distractor)? One row per contrast (a row of the view `contrasts`) and neuron, for the neurons of each layer with the largest |effect|. For the other neurons of a layer, contrast_details has the sum of their effects (mlp_remainder) and an upper bound of each |effect| (neuron_limit).';
COMMENT ON COLUMN contrast_neurons.activation IS 'activation of the neuron (hook_post) at the position whose prediction is decomposed';
COMMENT ON COLUMN contrast_neurons.effect IS 'direct effect of the neuron on the answer minus its direct effect on the distractor, in logits';

CREATE VIEW contrast_sources AS
SELECT s.run_id, s.document_id, s.layer, s.head, s.source_position_id, p.token AS source_token, s.attention, s.effect
FROM base.contrast_source s LEFT JOIN positions p ON p.run_id = s.run_id AND p.position_id = s.source_position_id;
COMMENT ON VIEW contrast_sources IS 'How much does a head add to the difference of two logits (answer − distractor) by what it reads from one source token? One row per contrast (a row of the view `contrasts`), head and source, for the 24 pairs of head and source with the largest |effect| in the contrast.';
COMMENT ON COLUMN contrast_sources.attention IS 'attention probability that the head gives to the source, from the position whose prediction is decomposed (contrasts.position_id)';
COMMENT ON COLUMN contrast_sources.effect IS 'direct effect of what the head reads from this source, in logits: its effect on the answer minus its effect on the distractor';

CREATE VIEW contrast_details AS
SELECT run_id, document_id, layer, attn_bias, mlp_bias, mlp_remainder, neuron_limit FROM base.contrast_layer;
COMMENT ON VIEW contrast_details IS 'Which terms of the difference of two logits (answer − distractor) are neither heads nor stored neurons? One row per contrast (a row of the view `contrasts`) and layer: the biases of the layer, and the sum over its neurons that have no row in contrast_neurons.';
COMMENT ON COLUMN contrast_details.attn_bias IS 'direct effect of the layer''s attention bias b_O (with the value biases folded in) on the answer minus its direct effect on the distractor, in logits';
COMMENT ON COLUMN contrast_details.mlp_bias IS 'direct effect of the layer''s MLP bias b_out on the answer minus its direct effect on the distractor, in logits';
COMMENT ON COLUMN contrast_details.mlp_remainder IS 'sum of the effects of the layer''s neurons that have no row in contrast_neurons, in logits. An effect is the direct effect on the answer minus that on the distractor';
COMMENT ON COLUMN contrast_details.neuron_limit IS 'upper bound of |effect|, in logits, for each neuron of the layer that has no row in contrast_neurons; 0 if every neuron has a row';

-- 13. Training: how a model's statistics change over its training steps --------------------------

CREATE VIEW emergence AS
WITH trained AS (
    SELECT m.model, m.revision, m.step, r.run_id, r.model_id, r.corpus_id
    FROM base.run r JOIN base.model m USING (model_id) WHERE r.status = 'finished' AND m.step IS NOT NULL
), loss AS (
    SELECT run_id, -avg(next_logprob) AS loss, count(next_logprob) AS count FROM base.position GROUP BY run_id
), composition AS (
    SELECT model_id, layer, head, max(z) FILTER (kind = 'Q') AS q, max(z) FILTER (kind = 'K') AS k, max(z) FILTER (kind = 'V') AS v
    FROM head_composition GROUP BY model_id, layer, head
), long AS (
    SELECT t.*, NULL::UTINYINT AS layer, NULL::UTINYINT AS head, NULL::UINTEGER AS neuron, NULL::VARCHAR AS token, unnest([
        {'statistic': 'loss', 'value': l.loss, 'count': l.count},
        {'statistic': 'bigram_rank_correlation', 'value': b.rank_correlation, 'count': b.positions},
        {'statistic': 'bigram_divergence', 'value': b.divergence, 'count': b.positions},
        {'statistic': 'bigram_overlap', 'value': b.overlap, 'count': b.positions}
    ], max_depth := 2)
    FROM trained t JOIN loss l ON l.run_id = t.run_id LEFT JOIN bigram_summary b ON b.run_id = t.run_id
    UNION ALL
    SELECT t.*, s.layer, s.head::UTINYINT, NULL, NULL, unnest([
        {'statistic': 'corpus_previous', 'value': s.attention_previous, 'count': s.attention_count},
        {'statistic': 'corpus_first', 'value': s.attention_first, 'count': s.attention_count},
        {'statistic': 'corpus_self', 'value': s.attention_self, 'count': s.attention_count},
        {'statistic': 'corpus_entropy', 'value': s.entropy, 'count': s.attention_count},
        {'statistic': 'corpus_duplicate', 'value': s.attention_duplicate, 'count': s.attention_duplicate_count},
        {'statistic': 'corpus_induction', 'value': s.attention_induction, 'count': s.attention_induction_count},
        {'statistic': 'random_previous', 'value': w.random_previous, 'count': NULL},
        {'statistic': 'random_first', 'value': w.random_first, 'count': NULL},
        {'statistic': 'random_self', 'value': w.random_self, 'count': NULL},
        {'statistic': 'random_entropy', 'value': w.random_entropy, 'count': NULL},
        {'statistic': 'random_duplicate', 'value': w.random_duplicate, 'count': NULL},
        {'statistic': 'random_induction', 'value': w.random_induction, 'count': NULL},
        {'statistic': 'mean_effect', 'value': s.mean_effect, 'count': s.count},
        {'statistic': 'mean_abs_effect', 'value': s.mean_abs_effect, 'count': s.count},
        {'statistic': 'copying', 'value': w.copying, 'count': NULL},
        {'statistic': 'composition_q', 'value': c.q, 'count': NULL},
        {'statistic': 'composition_k', 'value': c.k, 'count': NULL},
        {'statistic': 'composition_v', 'value': c.v, 'count': NULL}
    ], max_depth := 2)
    FROM trained t JOIN head_stats s ON s.run_id = t.run_id
    LEFT JOIN base.head_weight w ON w.model_id = t.model_id AND w.layer = s.layer AND w.head = s.head
    LEFT JOIN composition c ON c.model_id = t.model_id AND c.layer = s.layer AND c.head = s.head
    UNION ALL
    SELECT t.*, s.layer, NULL, s.neuron, v.next_token, unnest([
        {'statistic': 'mean', 'value': s.mean, 'count': s.count},
        {'statistic': 'std', 'value': s.std, 'count': s.count},
        {'statistic': 'fraction_positive', 'value': s.fraction_positive, 'count': s.count},
        {'statistic': 'mean_effect', 'value': s.mean_effect, 'count': s.count},
        {'statistic': 'mean_abs_effect', 'value': s.mean_abs_effect, 'count': s.count},
        {'statistic': 'congruence', 'value': v.congruence, 'count': NULL}
    ], max_depth := 2)
    FROM trained t JOIN neuron_stats s ON s.run_id = t.run_id
    LEFT JOIN (SELECT model_id, layer, neuron, token AS next_token, congruence FROM neuron_vocabulary WHERE direction = 'promotes' AND rank = 1) v
      ON v.model_id = t.model_id AND v.layer = s.layer AND v.neuron = s.neuron
)
SELECT model, revision, step, run_id, model_id, corpus_id, layer, head, neuron, statistic, value, count, token FROM long WHERE value IS NOT NULL;
COMMENT ON VIEW emergence IS 'How does a statistic change over the training steps of a model? One row per finished run with a known step, statistic, and head or neuron; statistics of the whole model have a row in which layer, head and neuron are NULL. Compare only runs over the same corpus (corpus_id). Statistics of weights are missing until `annotate weights` has read the weights of the step.';
COMMENT ON COLUMN emergence.statistic IS 'name of the statistic. Of the model: loss (mean loss in nats) and bigram_… (columns of bigram_summary). Of a head: corpus_… and random_… (columns of head_behaviour), mean_effect and mean_abs_effect (of head_stats, in logits), copying (of weight_stats), and composition_q, _k and _v (the largest z of head_composition over the heads of earlier layers). Of a neuron: mean, std, fraction_positive, mean_effect and mean_abs_effect (of neuron_stats), and congruence (of weight_stats)';
COMMENT ON COLUMN emergence.value IS 'value of the statistic at this step. Attention is a mean probability, 0 to 1; entropy, loss and divergence are in nats; effects are in logits';
COMMENT ON COLUMN emergence.count IS 'number of positions over which the value is averaged; NULL for a statistic of the weights';
COMMENT ON COLUMN emergence.token IS 'the token that the neuron promotes most at this step (weight_stats.next_token); NULL for heads, for the model, and where the weights have not been read';
