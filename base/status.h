/*
 * status.h: how every function of lorad reports failure.
 *
 * A fallible function returns `enum status` and sets its outputs only on success. The code says what the caller can do
 * about it; the words are for people. Whoever detects the failure first writes them once with FAIL (what is wrong,
 * where, what to do); everybody above forwards the code with TRY and adds nothing unless it knows a place worth naming
 * (status_context). run.c and main.c print status_message() once.
 *
 * Thread: the message belongs to the calling thread. A thread that hands its failure to another one copies the text.
 */
#ifndef LORAD_BASE_STATUS_H
#define LORAD_BASE_STATUS_H

enum status {
    LORAD_OK = 0,
    LORAD_USAGE,         /* the command line is wrong: show it to the user                       exit 64 */
    LORAD_DATA,          /* a row, tensor or file has bad contents                               exit 65 */
    LORAD_NOT_FOUND,     /* an input does not exist or cannot be opened                          exit 66 */
    LORAD_BUG,           /* a broken contract inside lorad                                       exit 70 */
    LORAD_NOMEM,         /* host or device memory exhausted                                      exit 70 */
    LORAD_DEVICE,        /* the accelerator or its libraries failed                              exit 70 */
    LORAD_PEER_LOST,     /* another rank failed or hangs; it reports the cause                   exit 71 */
    LORAD_CANNOT_CREATE, /* an output cannot be created: folder not writable, in use             exit 73 */
    LORAD_IO,            /* reading or writing failed: disk full, EIO                            exit 74 */
    LORAD_REQUEUE,       /* not a failure: checkpointed on request, wants to be started again    exit 75 */
    LORAD_FENCED,        /* a newer run owns output_dir; never restart this one                  exit 76 */
    LORAD_CONFIG,        /* a configuration key or its value is wrong                            exit 78 */
    LORAD_NUMERIC,       /* training diverged: too many non-finite steps                         exit 79 */
    LORAD_STOPPED,       /* not a failure: stopped for good by `lorad stop`                      exit 80 */
};

#define LORAD_WARN_UNUSED __attribute__((warn_unused_result))

/* Records the message for this thread and returns `code`. printf-like; no trailing newline or full stop needed. */
enum status status_fail(enum status code, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5), cold));

/* Puts "prefix: " before the recorded message (a place the detector could not know) and returns `code`. */
enum status status_context(enum status code, const char *format, ...) __attribute__((format(printf, 2, 3), cold));

/* The message of the last failure of this thread; "" when none. Borrowed until the next failure on this thread. */
const char *status_message(void);

/* "file.c:123" of the detector of the last failure on this thread, for logs at debug level. */
const char *status_origin(void);

void status_clear(void);

/* Lower-case word for a code ("config"), for logs. */
const char *status_name(enum status code);

/* The process exit code of a status; the table above. */
int status_exit_code(enum status code);

#define FAIL(code, ...) status_fail((code), __FILE__, __LINE__, __VA_ARGS__)

/* The one macro that returns. Use it only where nothing needs undoing. */
#define TRY(call)                                                                                            \
    do {                                                                                                     \
        enum status try_status_ = (call);                                                                    \
        if (try_status_ != LORAD_OK) return try_status_;                                                     \
    } while (0)

/* A broken contract inside lorad: prints the place and aborts. Never for anything a user can cause. */
void status_abort(const char *file, int line, const char *what) __attribute__((noreturn, cold));

#define ASSERT(condition)                                                                                    \
    do {                                                                                                     \
        if (!(condition)) status_abort(__FILE__, __LINE__, #condition);                                      \
    } while (0)

#endif
