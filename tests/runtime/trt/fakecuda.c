/* A stand-in for the CUDA driver (libcuda.so.1) in host memory, for tests on machines with no GPU.

   Written from the public signatures of the driver API. Device memory is malloc. A stream keeps its
   work in a list and does it only when somebody waits for it, so a result that is read too early,
   or a source that is overwritten too early, is found. Capturing keeps the list as a graph.
   Addresses are checked against what is allocated at that moment, when work is given and again when
   it is done. Everything alive is counted.

   FAKECUDA unset           no device                FAKECUDA_INTEGRATED=1   memory is shared
   FAKECUDA_LIMIT=bytes     out of memory above it   FAKECUDA_NOCAPTURE=1    no stream capture
   FAKECUDA_SM=87           compute capability       FAKECUDA_INIT=code      what cuInit returns
   FAKECUDA_MULTIPROCESSORS=8                        how many the GPU has */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))
typedef int R;
typedef unsigned long long DP;

enum { OK = 0, INVALID = 1, OOM = 2, NOT_INIT = 3, OLD = 803, NO_DEVICE = 100, BAD_DEVICE = 101,
       BAD_CONTEXT = 201, BAD_HANDLE = 400, NO_SYMBOL = 500, ILLEGAL_ADDRESS = 700,
       NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };

static const struct { R code; const char *name; } NAMES[] = {
    {OK, "CUDA_SUCCESS"}, {INVALID, "CUDA_ERROR_INVALID_VALUE"}, {OOM, "CUDA_ERROR_OUT_OF_MEMORY"},
    {NOT_INIT, "CUDA_ERROR_NOT_INITIALIZED"}, {OLD, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"}, {BAD_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
    {BAD_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"}, {BAD_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"}, {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"}};

/* -- what is alive ------------------------------------------------------------------------- */

enum { DEVICE_MEMORY, HOST_MEMORY, STREAMS, GRAPHS, EXECS, CONTEXTS, KINDS };
typedef struct Block { char *at; size_t size; int kind; struct Block *next; } Block;
typedef struct Op { int (*call)(void *); void *arg; char *to; const char *from; size_t size;
                    struct Op *next; } Op;
typedef struct { Op *first, **last; } List;
typedef struct { List work, caught; int capturing, invalid; } Stream;
typedef struct { List work; } Graph;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Block *blocks;
static long live[KINDS], misuse;
static size_t used;
static __thread void *stack[16];
static __thread int depth;
static int inited;

API long fakecuda_live(int kind) { return live[kind]; }
API long fakecuda_misuse(void) { return misuse; }
API int fakecuda_depth(void) { return depth; }

static int on(const char *name) { const char *v = getenv(name); return v && *v && *v != '0'; }
static long number(const char *name, long other) { const char *v = getenv(name); return v && *v ? atol(v) : other; }
static void count(int kind, int by) { pthread_mutex_lock(&lock); live[kind] += by; pthread_mutex_unlock(&lock); }
static R wrong(R code) { pthread_mutex_lock(&lock); misuse++; pthread_mutex_unlock(&lock); return code; }
static R ready(void) { return !inited ? NOT_INIT : !depth ? wrong(BAD_CONTEXT) : OK; }
#define READY do { R r_ = ready(); if (r_) return r_; } while (0)

static void *take(size_t size, int kind) {
    long limit = number("FAKECUDA_LIMIT", -1);
    if (kind == DEVICE_MEMORY && limit >= 0 && (long)(used + size) > limit) return NULL;
    Block *b = malloc(sizeof *b);
    *b = (Block){aligned_alloc(256, (size + 255) / 256 * 256), size, kind, NULL};
    memset(b->at, 0xA5, size);  /* fresh memory is never conveniently zero */
    pthread_mutex_lock(&lock);
    b->next = blocks; blocks = b; live[kind]++;
    if (kind == DEVICE_MEMORY) used += size;
    pthread_mutex_unlock(&lock);
    return b->at;
}

static R give(void *at, int kind) {
    pthread_mutex_lock(&lock);
    for (Block **p = &blocks; *p; p = &(*p)->next)
        if ((*p)->at == at && (*p)->kind == kind) {
            Block *b = *p;
            *p = b->next; live[kind]--;
            if (kind == DEVICE_MEMORY) used -= b->size;
            pthread_mutex_unlock(&lock);
            memset(b->at, 0x5A, b->size);
            free(b->at); free(b);
            return OK;
        }
    pthread_mutex_unlock(&lock);
    return wrong(INVALID);
}

static int known(const void *at, size_t size) {
    int found = 0;
    pthread_mutex_lock(&lock);
    for (Block *b = blocks; b && !found; b = b->next)
        found = (char *)at >= b->at && (char *)at + size <= b->at + b->size;
    pthread_mutex_unlock(&lock);
    return found;
}
API int fakecuda_known(DP at, size_t size) { return known((void *)at, size); }

/* -- streams, work, graphs ----------------------------------------------------------------- */

static void empty(List *l) { l->first = NULL; l->last = &l->first; }
static void drop(List *l) { for (Op *o = l->first, *n; o; o = n) { n = o->next; free(o); } empty(l); }
static void add(List *l, Op op) {
    Op *o = malloc(sizeof *o);
    *o = op; o->next = NULL;
    *l->last = o; l->last = &o->next;
}
static R give_work(Stream *s, Op op) {
    if (!s) return wrong(BAD_HANDLE);  /* the default stream is nobody's to use */
    add(s->capturing ? &s->caught : &s->work, op);
    return OK;
}
static R copy(void *to, const void *from, size_t size, Stream *s) {
    if (!known(to, size) || !known(from, size)) return wrong(INVALID);
    return give_work(s, (Op){NULL, NULL, to, from, size, NULL});
}
static R work_off(Stream *s) {
    R result = OK;
    for (Op *o = s->work.first; o && result == OK; o = o->next) {
        if (o->call) { if (o->call(o->arg)) result = ILLEGAL_ADDRESS; }
        else if (!known(o->to, o->size) || !known(o->from, o->size)) result = wrong(ILLEGAL_ADDRESS);
        else memcpy(o->to, o->from, o->size);
    }
    drop(&s->work);
    return result;
}

/* For the stand-in TensorRT: put a host function into a stream; it returns 0 if it went well. */
API R fakecuda_enqueue(void *s, int (*call)(void *), void *arg) {
    READY;
    return give_work(s, (Op){call, arg, NULL, NULL, 0, NULL});
}

API R cuStreamCreate(void **s, unsigned flags) {
    READY;
    Stream *x = calloc(1, sizeof *x);
    empty(&x->work); empty(&x->caught);
    count(STREAMS, 1);
    *s = x;
    return OK;
}
API R cuStreamCreateWithPriority(void **s, unsigned flags, int priority) { return cuStreamCreate(s, flags); }
API R cuStreamDestroy_v2(void *s) {
    Stream *x = s;
    if (!x) return wrong(BAD_HANDLE);
    if (x->capturing || x->work.first) wrong(OK);
    drop(&x->work); drop(&x->caught); free(x);
    count(STREAMS, -1);
    return OK;
}
API R cuStreamSynchronize(void *s) {
    READY;
    Stream *x = s;
    if (!x) return wrong(BAD_HANDLE);
    if (x->capturing) { x->invalid = 1; return CAPTURE_UNSUPPORTED; }
    return work_off(x);
}
API R cuStreamQuery(void *s) { return OK; }
API R cuStreamIsCapturing(void *s, int *state) { Stream *x = s; *state = x && x->capturing; return OK; }
API R cuStreamBeginCapture_v2(void *s, int mode) {
    READY;
    Stream *x = s;
    if (!x) return wrong(CAPTURE_UNSUPPORTED);
    if (on("FAKECUDA_NOCAPTURE")) return NOT_SUPPORTED;
    x->capturing = 1; x->invalid = 0;
    return OK;
}
API R cuStreamEndCapture(void *s, void **g) {
    READY;
    Stream *x = s;
    *g = NULL;
    if (!x || !x->capturing) return wrong(INVALID);
    x->capturing = 0;
    if (x->invalid) { drop(&x->caught); return CAPTURE_INVALIDATED; }
    Graph *made = calloc(1, sizeof *made);
    empty(&made->work);
    for (Op *o = x->caught.first; o; o = o->next) add(&made->work, *o);
    drop(&x->caught);
    count(GRAPHS, 1);
    *g = made;
    return OK;
}
API R cuGraphInstantiateWithFlags(void **e, void *g, unsigned long long flags) {
    READY;
    Graph *made = calloc(1, sizeof *made);
    empty(&made->work);
    for (Op *o = ((Graph *)g)->work.first; o; o = o->next) add(&made->work, *o);
    count(EXECS, 1);
    *e = made;
    return OK;
}
API R cuGraphInstantiate_v2(void **e, void *g, void **n, char *b, size_t k) { return cuGraphInstantiateWithFlags(e, g, 0); }
API R cuGraphLaunch(void *e, void *s) {
    READY;
    for (Op *o = ((Graph *)e)->work.first; o; o = o->next) { R r = give_work(s, *o); if (r) return r; }
    return OK;
}
static R undo(Graph *g, int kind) { drop(&g->work); free(g); count(kind, -1); return OK; }
API R cuGraphExecDestroy(void *e) { return undo(e, EXECS); }
API R cuGraphDestroy(void *g) { return undo(g, GRAPHS); }

/* -- memory -------------------------------------------------------------------------------- */

API R cuMemGetInfo_v2(size_t *f, size_t *t) {
    READY;
    *t = 8ull << 30;
    *f = number("FAKECUDA_LIMIT", -1) >= 0 ? (size_t)number("FAKECUDA_LIMIT", 0) - used : *t - used;
    return OK;
}
API R cuMemAlloc_v2(DP *p, size_t size) {
    READY;
    if (!size) return wrong(INVALID);
    void *at = take(size, DEVICE_MEMORY);
    *p = (DP)at;
    return at ? OK : OOM;
}
API R cuMemFree_v2(DP p) { READY; return give((void *)p, DEVICE_MEMORY); }
API R cuMemHostAlloc(void **p, size_t size, unsigned flags) {
    READY;
    if (!size) return wrong(INVALID);
    *p = take(size, HOST_MEMORY);
    return *p ? OK : OOM;
}
API R cuMemAllocHost_v2(void **p, size_t size) { return cuMemHostAlloc(p, size, 0); }
API R cuMemFreeHost(void *p) { READY; return give(p, HOST_MEMORY); }
API R cuMemHostGetDevicePointer_v2(DP *d, void *h, unsigned flags) { READY; *d = (DP)h; return known(h, 1) ? OK : wrong(INVALID); }
API R cuMemHostGetFlags(unsigned *flags, void *p) { *flags = 2; return OK; }
API R cuMemcpyHtoDAsync_v2(DP d, const void *s, size_t n, void *st) { READY; return copy((void *)d, s, n, st); }
API R cuMemcpyDtoHAsync_v2(void *d, DP s, size_t n, void *st) { READY; return copy(d, (void *)s, n, st); }

/* -- device and context -------------------------------------------------------------------- */

API R cuInit(unsigned flags) {
    if (on("FAKECUDA_INIT")) return (R)number("FAKECUDA_INIT", OK);
    if (!on("FAKECUDA")) return NO_DEVICE;
    inited = 1;
    return OK;
}
API R cuDriverGetVersion(int *v) { *v = 13000; return OK; }
API R cuDeviceGetCount(int *n) { if (!inited) return NOT_INIT; *n = 1; return OK; }
API R cuDeviceGet(int *d, int i) { if (!inited) return NOT_INIT; *d = 0; return i ? BAD_DEVICE : OK; }
API R cuDeviceGetName(char *b, int n, int d) { snprintf(b, n, "Fake Orin"); return OK; }
API R cuDeviceGetUuid(void *u, int d) { memset(u, 7, 16); return OK; }
API R cuDeviceGetUuid_v2(void *u, int d) { memset(u, 7, 16); return OK; }
API R cuDeviceGetAttribute(int *v, int a, int d) {
    int sm = (int)number("FAKECUDA_SM", 87);
    *v = a == 75 ? sm / 10 : a == 76 ? sm % 10 : a == 18 ? on("FAKECUDA_INTEGRATED")
       : a == 16 ? (int)number("FAKECUDA_MULTIPROCESSORS", 8) : a == 19;
    return OK;
}
API R cuDeviceTotalMem_v2(size_t *n, int d) { *n = 8ull << 30; return OK; }
API R cuDeviceComputeCapability(int *a, int *b, int d) { cuDeviceGetAttribute(a, 75, d); return cuDeviceGetAttribute(b, 76, d); }
API R cuDevicePrimaryCtxRetain(void **c, int d) { if (!inited) return NOT_INIT; count(CONTEXTS, 1); *c = (void *)0x1000; return OK; }
API R cuDevicePrimaryCtxRelease_v2(int d) { if (live[CONTEXTS] < 1) return wrong(BAD_CONTEXT); count(CONTEXTS, -1); return OK; }
API R cuDevicePrimaryCtxGetState(int d, unsigned *f, int *a) { *f = 0; *a = live[CONTEXTS] > 0; return OK; }
API R cuCtxPushCurrent_v2(void *c) {
    if (depth >= 16 || live[CONTEXTS] < 1) return wrong(BAD_CONTEXT);
    stack[depth++] = c;
    return OK;
}
API R cuCtxPopCurrent_v2(void **c) {
    if (!depth) return wrong(BAD_CONTEXT);
    void *top = stack[--depth];
    if (c) *c = top;
    return OK;
}
API R cuCtxSetCurrent(void *c) { return c ? cuCtxPushCurrent_v2(c) : depth ? (depth--, OK) : OK; }
API R cuCtxGetCurrent(void **c) { *c = depth ? stack[depth - 1] : NULL; return OK; }
API R cuCtxGetDevice(int *d) { READY; *d = 0; return OK; }
API R cuCtxGetDevice_v2(int *d, void *c) { *d = 0; return OK; }
API R cuCtxGetApiVersion(void *c, unsigned *v) { *v = 3020; return OK; }
API R cuCtxSynchronize(void) { READY; return OK; }

/* -- errors and symbols -------------------------------------------------------------------- */

API R cuGetErrorName(R code, const char **text) {
    *text = "CUDA_ERROR_UNKNOWN";
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) if (NAMES[i].code == code) *text = NAMES[i].name;
    return OK;
}
API R cuGetErrorString(R code, const char **text) { return cuGetErrorName(code, text); }
API R cuGetProcAddress_v2(const char *symbol, void **found, int version, unsigned long long flags, int *status) {
    static const char *endings[] = {"_v2", ""};
    static void *self;
    char name[160];
    Dl_info here;
    if (!self && dladdr((void *)cuInit, &here)) self = dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    *found = NULL;
    for (int i = 0; i < 2 && !*found; i++) {
        snprintf(name, sizeof name, "%s%s", symbol, endings[i]);
        *found = dlsym(self, name);
    }
    if (status) *status = *found ? 0 : 1;
    return *found ? OK : NO_SYMBOL;
}
API R cuGetProcAddress(const char *symbol, void **found, int version, unsigned long long flags) {
    return cuGetProcAddress_v2(symbol, found, version, flags, NULL);
}
