/* rwkv.h: the whole C interface of the engine. C99, nothing but <stddef.h> and <stdint.h>.
 *
 *   rwkv_model *model;
 *   rwkv_load *load;
 *   rwkv_model_options mo = {0};      mo.size = sizeof mo;  mo.strategy = "cpu fp32";
 *   if (rwkv_load_start(&load, tensors, n_tensors, &mo)) die(rwkv_last_error());
 *   if (rwkv_load_finish(&model, load)) die(rwkv_last_error());          (waits; frees `load`)
 *
 *   rwkv_engine_options eo = {0};     eo.size = sizeof eo;  eo.ring = ring;  eo.payload = &doorbell;
 *   rwkv_engine *engine;
 *   if (rwkv_engine_new(&engine, model, vocab, &eo)) die(rwkv_last_error());
 *   rwkv_request rq = {0};            rwkv_request_init(&rq);  rq.tokens = ids;  rq.n_tokens = n;
 *   uint64_t id;
 *   if (rwkv_engine_submit(&id, engine, &rq)) die(rwkv_last_error());
 *   ... when ring(&doorbell) has been called:
 *   const rwkv_event *ev;  size_t n_ev;
 *   rwkv_engine_poll(&ev, &n_ev, engine);        every event since the last poll, of every request
 *
 * Rules. Functions return 0 or a negative rwkv_status and put their results in the leading
 * out-parameters; rwkv_last_error() then says what was wrong, for the calling thread. Option structs
 * carry their own size, so that fields can be added at the end; zero means the default unless a field
 * says otherwise. Strings are UTF-8. Nothing is printed, nothing aborts, there is no global state.
 * Thread-safety is stated per group. The cffi declarations are the part between the two scissor lines.
 */
#ifndef RWKV_H
#define RWKV_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define RWKV_API __attribute__((visibility("default")))
#else
#define RWKV_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- 8< ---- declarations */

typedef enum {
    RWKV_OK = 0,
    RWKV_INVALID = -1,      /* an argument is wrong: ValueError */
    RWKV_IO = -2,           /* a file cannot be opened or mapped: OSError */
    RWKV_NO_MEMORY = -3,    /* MemoryError */
    RWKV_UNSUPPORTED = -4,  /* right, but not by this build or machine: the message names an alternative */
    RWKV_BUSY = -5,         /* the queue is full: try later */
    RWKV_STOPPED = -6,      /* the engine or load has been stopped */
    RWKV_INTERNAL = -7      /* a fault of ours */
} rwkv_status;

/* Message of the last failed call of this thread; "" if none. Valid until the thread's next call. */
RWKV_API const char *rwkv_last_error(void);
RWKV_API const char *rwkv_version(void);
/* The instruction set chosen for the CPU kernels: "baseline", "avx2", "avx512", ... RWKV_CPU_ISA in the
 * environment forces one; an unknown or unusable name is RWKV_UNSUPPORTED. */
RWKV_API int rwkv_cpu_isa(const char **name);

/* ---- Model: weights in memory. Immutable after loading; every function is thread-safe. */

typedef struct rwkv_model rwkv_model;
typedef struct rwkv_load rwkv_load;
typedef struct rwkv_state rwkv_state;

/* I8, I4 and PACKED_*: a matrix [out, in] as rwkv_pack makes it, or one with strides [1, in] whose transpose
 * was packed, as low-rank factors [in, out] are. It is used where it lies, which must be at a multiple of 64,
 * and its file stays mapped; PACKED_* are unpacked where the strategy keeps another type. Q4_0 to Q6_K: the
 * block formats of GGUF files, rows of whole blocks. */
typedef enum {
    RWKV_F32 = 0, RWKV_F16 = 1, RWKV_BF16 = 2, RWKV_F64 = 3, RWKV_I8 = 4, RWKV_I4 = 5,
    RWKV_PACKED_F32 = 6, RWKV_PACKED_F16 = 7, RWKV_PACKED_BF16 = 8,
    RWKV_Q4_0 = 16, RWKV_Q4_1 = 17, RWKV_Q5_0 = 18, RWKV_Q5_1 = 19, RWKV_Q8_0 = 20,
    RWKV_Q4_K = 21, RWKV_Q5_K = 22, RWKV_Q6_K = 23
} rwkv_dtype;

/* A row named NAME/... says something of the tensor NAME:
 * emb.weight/normed, of any content: its rows have gone through blocks.0.ln0, which is not applied again.
 * NAME/0/KIND/a, NAME/1/..., of a large matrix [out, in] or a table of plain numbers: what is made of it while it
 *   is read, one after the other; KIND is a word of rwkv_change. low_rank also has /b and, of one element, /scale. */
typedef enum {
    RWKV_LOW_RANK = 0,     /* low_rank:    W += scale · b · a               a [r, in], b [out, r] */
    RWKV_SHARD = 1,        /* shard:       W[o, c] += a[c mod r, o mod m]   a [r, m], m a divisor of out */
    RWKV_BAT_COLUMNS = 2,  /* bat_columns: W = blocks [r, r], each W += W · a + a, a by column of blocks, [in / r, r, r] */
    RWKV_BAT_ROWS = 3,     /* bat_rows:    the same, a by row of blocks, [out / r, r, r] */
    RWKV_MAGNITUDE = 4     /* magnitude:   every row to the length a[o]     a [out] */
} rwkv_change;

/* One row of a checkpoint's index. The bytes lie in `path` or, where path is NULL, at `data`. */
typedef struct {
    const char *name;    /* official name, e.g. "blocks.0.att.key.weight" */
    const char *path;    /* file that holds the bytes, or NULL */
    const void *data;    /* used if path is NULL; must stay valid until the load has finished */
    int32_t dtype;       /* rwkv_dtype */
    int32_t rank;        /* 0..8 */
    int64_t shape[8];
    int64_t stride[8];   /* in elements, >= 0 */
    uint64_t offset;     /* bytes from the start of the file (or data) to element 0 */
    uint64_t nbytes;     /* bytes from `offset` on that may be read for this tensor */
    float scale;         /* the tensor is this times what is stored, a power of two; 0 means 1 */
} rwkv_tensor;

typedef struct {
    size_t size;
    const char *strategy;   /* "cpu fp32", "cpu bf16 *10 -> cpu fp32", "auto" (or NULL) ... */
    int32_t threads;        /* 0: the least of physical cores, affinity and CPU quota */
    const char *state_type; /* "fp32" (or NULL), "fp16", "bf16": how states keep the matrices of versions 5 to
                             * 7; computed is in fp32, and rounded after every token */
} rwkv_model_options;

typedef struct {
    size_t size;            /* set by the caller */
    char version[8];        /* "7" */
    char strategy[512];     /* what was chosen, e.g. "cpu bf16" */
    char file_dtype[8];     /* type of most weights in the file: "fp32" "fp16" "bf16" "Q4_K" ... */
    char isa[16];
    int32_t layers, width, heads, head_size, ffn, vocab;   /* L D H N F V */
    int32_t threads;
    int64_t parameters;
    int64_t weight_bytes;   /* memory the weights take */
    int64_t token_bytes;    /* weight bytes read to decode one token at batch 1 */
    int64_t token_flops;    /* floating-point operations to decode one token (2 per multiply-add) */
    int64_t int8_weights, int4_weights;   /* parameters kept in groups with a scale: of 64 in int8, of 32 in int4 */
    char state_type[8];     /* how states keep their matrices; "fp32" in version 4, which has none */
    int64_t state_bytes;    /* memory that one state takes */
} rwkv_model_info;

/* Starts a load on native threads and returns at once. */
RWKV_API int rwkv_load_start(rwkv_load **out, const rwkv_tensor *tensors, size_t n_tensors,
                             const rwkv_model_options *options);
/* done/total bytes converted; finished is 1 once rwkv_load_finish would not wait. */
RWKV_API int rwkv_load_progress(uint64_t *done, uint64_t *total, int32_t *finished, rwkv_load *load);
/* Waits for the end, hands out the model or the load's error, and frees `load` in both cases. */
RWKV_API int rwkv_load_finish(rwkv_model **out, rwkv_load *load);
/* Asks the load to end early, waits for that, frees it. NULL is allowed. */
RWKV_API void rwkv_load_cancel(rwkv_load *load);

/* Packs `rows` rows [rows, in] of finite numbers of a matrix as RWKV_I8, RWKV_I4 or RWKV_PACKED_*: 16 a
 * time, so all pieces of a matrix but the last have a multiple of 16. out holds rwkv_packed_size bytes; loss[0]
 * is what rounding changed, squared and summed, loss[1] the same of the weights. Thread-safe. */
RWKV_API int rwkv_packed_size(size_t *out, int32_t dtype, int64_t rows, int64_t in);
RWKV_API int rwkv_pack(uint8_t *out, double *loss, int32_t dtype, const float *weights, int64_t rows,
                       int64_t in);

/* Changes rows first to first + n - 1, which lie at `rows`, of a matrix [out, in] as a load does. b: of RWKV_LOW_RANK
 * only; rank: r. Thread-safe. */
RWKV_API int rwkv_change_rows(float *rows, int64_t first, int64_t n, int64_t out, int64_t in, int32_t change,
                              int64_t rank, float scale, const float *a, size_t n_a, const float *b, size_t n_b);

RWKV_API int rwkv_model_describe(rwkv_model_info *out, const rwkv_model *model);
/* Drops the caller's reference; engines and states that use the model keep it alive. */
RWKV_API void rwkv_model_free(rwkv_model *model);

/* Runs n tokens (n >= 1) and moves `state` on. logits: float32 [vocab] after the last token, or
 * [n, vocab] if full. Calls of several threads, and the steps of engines, on one model take turns, first come,
 * first served, at most 256 tokens at a time. Where it fails half-way, the state is refused from then on. */
RWKV_API int rwkv_model_forward(float *logits, rwkv_model *model, rwkv_state *state,
                                const int32_t *tokens, size_t n, int32_t full);
/* Thread-pool dispatches (barriers) made so far by this model: what a test counts. */
RWKV_API int rwkv_model_barriers(uint64_t *out, const rwkv_model *model);

/* ---- State: the whole past of one sequence. One thread at a time per state. */

typedef struct {
    char name[8];           /* "att_x" "ffn_x" "wkv" (version 4: "aa" "bb" "pp") */
    int32_t rank;
    int64_t shape[4];       /* [L, D] or [L, H, N, N] */
    int64_t count;          /* elements */
} rwkv_state_part;

/* A zero state. */
RWKV_API int rwkv_state_new(rwkv_state **out, rwkv_model *model);
RWKV_API int rwkv_state_clone(rwkv_state **out, const rwkv_state *state);
RWKV_API void rwkv_state_free(rwkv_state *state);
/* Part number i of the model's states; RWKV_INVALID past the last. */
RWKV_API int rwkv_state_describe(rwkv_state_part *out, const rwkv_model *model, int32_t i);
/* Copies part i out or in, `count` float32 in C order, however the state keeps them. */
RWKV_API int rwkv_state_read(float *out, const rwkv_state *state, int32_t i, size_t count);
RWKV_API int rwkv_state_write(rwkv_state *state, int32_t i, const float *values, size_t count);

/* ---- Vocabulary: id -> bytes, and greedy longest match. Immutable; thread-safe. */

typedef struct rwkv_vocab rwkv_vocab;

/* From the text of a World vocabulary file: lines `id literal bytelen`. */
RWKV_API int rwkv_vocab_parse(rwkv_vocab **out, const char *text, size_t n);
/* From a table: token i has the bytes blob[offsets[i] .. offsets[i+1]); empty = no such token. */
RWKV_API int rwkv_vocab_new(rwkv_vocab **out, const uint8_t *blob, const uint64_t *offsets, size_t n);
RWKV_API void rwkv_vocab_free(rwkv_vocab *vocab);
/* One more than the largest id. */
RWKV_API int rwkv_vocab_size(size_t *out, const rwkv_vocab *vocab);
/* Greedy longest match over bytes. *ids belongs to the caller: rwkv_ids_free. RWKV_INVALID if a byte
 * starts no token. */
RWKV_API int rwkv_vocab_encode(int32_t **ids, size_t *n, const rwkv_vocab *vocab, const char *text,
                               size_t n_text);
RWKV_API void rwkv_ids_free(int32_t *ids);
/* Writes at most `capacity` bytes; *n is the full length. Ids without bytes add nothing; ids outside
 * the vocabulary are RWKV_INVALID. */
RWKV_API int rwkv_vocab_decode(char *out, size_t capacity, size_t *n, const rwkv_vocab *vocab,
                               const int32_t *ids, size_t n_ids);

/* ---- Sampling. */

typedef struct {
    size_t size;
    double temperature;         /* power 1/T of the surviving probabilities; 0 = greedy */
    double top_p;               /* >= 1: off */
    int32_t top_k;              /* <= 0: off */
    double min_p;               /* drop tokens below min_p times the best probability; 0: off */
    double presence_penalty, frequency_penalty, penalty_decay;
    uint64_t seed;
    const int32_t *bias_ids;    /* logit_bias: added before everything else */
    const float *bias_values;
    size_t n_bias;
    const int32_t *forbidden;   /* never drawn */
    size_t n_forbidden;
    const int32_t *no_repeat;   /* ids that cannot follow themselves */
    size_t n_no_repeat;
    int32_t global_penalty;     /* prompt tokens count as drawn once the first token has been drawn */
    const int32_t *exempt;      /* prompt tokens that global_penalty leaves out */
    size_t n_exempt;
    int32_t logprobs;           /* -1: none; k >= 0: the drawn token and the k most likely, per token */
    const int32_t *weight_ids;  /* each time such a token is drawn it counts as its weight (>= 0), not as 1 */
    const double *weights;
    size_t n_weights;
    const int32_t *slope_ids;   /* slope * (tokens drawn so far) is added to the logits of these */
    const double *slopes;
    size_t n_slopes;
    int64_t min_tokens;         /* an answer has so many tokens at least: before that no stop string ends it,
                                 * and of a request no stop id or end id is drawn; 0: off */
    const int32_t *late;        /* more ids that are not drawn before that */
    size_t n_late;
} rwkv_sampling;

/* temperature 1, top_p 1, penalty_decay 0.996, logprobs -1, the rest off. */
RWKV_API void rwkv_sampling_init(rwkv_sampling *sampling);
/* The exact distribution drawn from after `n_drawn` tokens, and the token that (seed, step n_drawn)
 * draws from it. probabilities: float64 [n]; either out may be NULL. prompt may be NULL. */
RWKV_API int rwkv_sampling_probe(double *probabilities, int32_t *token, const rwkv_sampling *sampling,
                                 const float *logits, size_t n, const int32_t *drawn, size_t n_drawn,
                                 const int32_t *prompt, size_t n_prompt);

/* ---- Engine: one thread that batches all requests. submit, cancel, poll and stats may be called from
 * any thread, but poll from one thread at a time. */

typedef struct rwkv_engine rwkv_engine;

typedef struct {
    size_t size;
    int32_t max_batch;       /* answers in one step; 0: 64. An eighth more, and one, may be at work by turns:
                              * of clients and groups that would wait for others who hold several */
    int32_t prefill_chunk;   /* prompt tokens of one step at most; 0: 256 */
    int32_t max_queue;       /* waiting requests; 0: 1024 */
    /* Called by the engine thread when events are waiting, at most once between two polls. Must not
     * block and must not call back into the engine. NULL: poll without a bell. */
    void (*ring)(void *payload);
    void *payload;
    double step_ms;          /* how long a step beside running streams may last before it takes fewer prompt
                              * tokens; always 2.5 steps of the streams with those that wait, and 16 tokens.
                              * Where no stream runs: this or 50 ms or four steps of one token, whichever is
                              * longest. 0: 20; at most 60000 */
    int32_t speculate;       /* of requests that leave it to the engine: 0 to 64 */
    int64_t cache_bytes;     /* of states kept for prompts that begin like earlier texts; 0: none are kept */
} rwkv_engine_options;

typedef struct {
    size_t size;                /* exactly sizeof: the struct below grows inside this one */
    rwkv_sampling sampling;
    const int32_t *tokens;      /* the prompt, at least one id; copied */
    size_t n_tokens;
    int64_t max_tokens;         /* tokens to draw at most; 0: the prompt is read, and kept where the engine keeps
                                 * states, and the answer ends with RWKV_FINISH_LENGTH */
    const char *const *stops;   /* stop strings, none empty; never emitted, not even in part */
    const size_t *stop_sizes;
    size_t n_stops;
    const int32_t *stop_ids;    /* drawing one ends the answer; counted, not emitted */
    size_t n_stop_ids;
    const int32_t *end_ids;     /* end of document: ends the answer; neither counted nor emitted. Those in
                                 * sampling.forbidden are never drawn: the answer goes on for max_tokens */
    size_t n_end_ids;
    const rwkv_state *state;    /* start state or NULL for zero; copied */
    int32_t speculate;          /* tokens to guess ahead at most, by looking up the text so far; a guess is
                                 * verified, so that the answer stays the same. 0: none; -1: as the engine */
    int32_t quiet;              /* 1: one event for the first token, one at the end, and none between them */
    const int64_t *save_at;     /* ascending numbers of prompt tokens after which other texts may go on
                                 * differently: the state there is kept, too. None for an embedding */
    size_t n_save_at;
    int32_t dimensions;         /* 1 to 4096: draw nothing, and end with an embedding of the prompt of so many
                                 * numbers and RWKV_FINISH_STOP; what is above about answers has no effect */
    int32_t quick;              /* 1: an embedding of the first layer, at a fraction of the cost */
    uint64_t client;            /* who asks, by any number. Slots and prompts go round by client, and for each
                                 * client by group, so that one request of many prompts, and one client with
                                 * many requests, leave room for the others */
    uint64_t group;             /* requests of a client that came together, by any number; 0: this one alone */
    int32_t n;                  /* answers, 1 to 1024; 0: one. The prompt is read once, and its state copied for
                                 * each further one. They have the ids `id` to `id` + n - 1, each its own events
                                 * and end, and the seeds sampling.seed to sampling.seed + n - 1 */
    int32_t keep_state;         /* 1: the last event of an answer brings the state after it. Not of RWKV-7b */
    int32_t score;              /* 1: draw nothing, and end with RWKV_FINISH_STOP and the log-probabilities of the
                                 * prompt's own tokens, from the second on, in place of drawn ones; logprobs -1
                                 * counts as 0. What is above about answers has no effect */
    /* NULL, or says before each draw of this request which ids may come next, by a bit each, the lowest first:
     * bits [(vocab + 63) / 64] are all set when it is called, with the n tokens drawn so far. Anything but 0 ends
     * the request with RWKV_FINISH_ERROR, and so does allowing none. Called by the engine's thread, which waits
     * for it with all other requests; it must not call the engine. `speculate` is 0 with it. */
    int32_t (*mask)(void *payload, uint64_t *bits, const int32_t *tokens, size_t n);
    void *mask_payload;
} rwkv_request;

typedef enum {
    RWKV_RUNNING = 0,
    RWKV_FINISH_STOP = 1,       /* end id, stop id or stop string */
    RWKV_FINISH_LENGTH = 2,     /* max_tokens */
    RWKV_FINISH_CANCEL = 3,
    RWKV_FINISH_ERROR = 4       /* text is the message */
} rwkv_finish;

/* What one request has to say since the last poll; the last one has finish != RWKV_RUNNING. An error is
 * an event of its own, after one with the text before it. Pointers are valid until the next
 * rwkv_engine_poll. */
typedef struct {
    uint64_t id;
    int32_t finish;             /* rwkv_finish */
    const char *text;           /* whole UTF-8 characters, not zero-terminated */
    size_t n_text;
    const int32_t *tokens;      /* ids drawn since the last event */
    size_t n_tokens;
    const int32_t *logprob_ids; /* [n_tokens][1 + k]: the drawn id, then the k most likely; or NULL */
    const float *logprobs;      /* the same shape: natural logarithms of the model's own distribution */
    size_t logprob_width;       /* 1 + k, or 0 */
    int64_t prompt_tokens;
    int64_t completion_tokens;  /* so far */
    int64_t cached_tokens;      /* of the prompt: were not computed */
    const float *embedding;     /* [n_embedding], of length 1; NULL unless asked for and finished */
    size_t n_embedding;
    rwkv_state *state;          /* after the answer, if it was asked for: the caller's, to be freed. It has read the
                                 * prompt and what is whole in the text, but for these: */
    const int32_t *unread;      /* the last tokens of the text that it has not read, as a rule one */
    size_t n_unread;
} rwkv_event;

typedef struct {
    size_t size;
    int64_t waiting, prefilling, running;   /* requests now; slots in use = prefilling + running */
    int64_t submitted, finished, cancelled;
    int64_t steps, prompt_tokens, completion_tokens;   /* computed so far */
    int64_t guessed_tokens, accepted_tokens;           /* went through the model; were then drawn */
    int64_t forked;             /* states copied for further answers to a prompt */
} rwkv_engine_stats;

/* The cache of states. Kept are those at the end of a prompt, where a request names them (save_at) unless
 * one fewer than 16 tokens before is kept, and at the end of an answer, or before what was held back of it.
 * A prompt is read from behind the longest beginning that is kept, for the same start state. The least
 * recently used go first. RWKV-7b keeps none. */
typedef struct {
    size_t size;
    int64_t limit, bytes, entries;         /* now */
    int64_t hits, misses;                  /* requests that found a beginning of their prompt, or none */
    int64_t asked_tokens, cached_tokens;   /* of their prompts: in all; not computed */
    int64_t saved, evicted;                /* states */
    int64_t reworded;   /* requests whose text went on where a state was kept, but in other tokens */
} rwkv_cache_stats;

RWKV_API int rwkv_engine_new(rwkv_engine **out, rwkv_model *model, const rwkv_vocab *vocab,
                             const rwkv_engine_options *options);
/* Ends the thread after the step in progress and frees everything; NULL is allowed. */
RWKV_API void rwkv_engine_free(rwkv_engine *engine);
RWKV_API void rwkv_request_init(rwkv_request *request);
/* RWKV_BUSY when the queue is full, which takes all answers of a request or none; RWKV_INVALID names the field.
 * Ids are never 0 and never reused. */
RWKV_API int rwkv_engine_submit(uint64_t *id, rwkv_engine *engine, const rwkv_request *request);
/* Takes effect before the next step, in every phase; the request then ends with RWKV_FINISH_CANCEL.
 * Unknown and finished ids are ignored. */
RWKV_API int rwkv_engine_cancel(rwkv_engine *engine, uint64_t id);
/* Where it fails (RWKV_NO_MEMORY) the events are those of the next call. */
RWKV_API int rwkv_engine_poll(const rwkv_event **events, size_t *n, rwkv_engine *engine);
RWKV_API int rwkv_engine_describe(rwkv_engine_stats *out, rwkv_engine *engine);
/* Both take effect before the next step and leave requests at work alone. 0 bytes: nothing is kept. */
RWKV_API int rwkv_cache_resize(rwkv_engine *engine, int64_t bytes);
RWKV_API int rwkv_cache_clear(rwkv_engine *engine);
RWKV_API int rwkv_cache_describe(rwkv_cache_stats *out, rwkv_engine *engine);

/* ---- >8 ---- */

#ifdef __cplusplus
}
#endif
#endif
