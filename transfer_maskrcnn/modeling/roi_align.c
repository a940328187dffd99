/* RoIAlign on the CPU, both directions, for maps in channels_last order: (images, height, width,
   channels). roi_align.py is the only caller: it checks shapes, types and the indices of images.

   RoIAlign is separable. On each axis a RoI has a small matrix of weights, bins by pixels; pooling
   multiplies the map by it from both sides, and the gradient goes back through its transpose. So
   one function, sum_terms, does both: a target (bin, or pixel) is a weighted sum over sources
   (pixels, or bins) whose channels lie side by side. Sums are float32; bfloat16 is rounded once.

   The order of additions depends on neither the threads nor how the work is cut. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "roi_weights.h"

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FASTEST_CPU_CODE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FASTEST_CPU_CODE
#endif
#define INLINE static inline __attribute__((always_inline))

/* ---------------------------------------------------------------- sums over channels
   GNU C vectors: GCC unrolls plain loops over two terms here, and then does not vectorise them. */

typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
enum { WIDTH = 16, BLOCK = 4 * WIDTH };

/* A memcpy of a known size is an instruction, any other a loop. */
INLINE void copy(void *to, const void *from, int count, size_t size)
{
    if (count == WIDTH)
        memcpy(to, from, WIDTH * size);
    else
        memcpy(to, from, count * size);
}

/* `count` numbers of an array; the rest of the vector is zero. */
INLINE Floats load(const void *array, Py_ssize_t at, int count, int bf16)
{
    Floats values = {0};
    Halves halves = {0};
    if (!bf16) {
        copy(&values, (const float *)array + at, count, sizeof(float));
        return values;
    }
    copy(&halves, (const uint16_t *)array + at, count, sizeof(uint16_t));
    return (Floats)(__builtin_convertvector(halves, Words) << 16);
}

/* To bfloat16: to nearest, ties to even. (A NaN of bfloat16 sums stays one: its low bits are 0.) */
INLINE void store(void *array, Py_ssize_t at, Floats values, int count, int bf16)
{
    if (!bf16) {
        copy((float *)array + at, &values, count, sizeof(float));
        return;
    }
    Words bits = (Words)values;
    Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    Halves halves = __builtin_convertvector(rounded, Halves);
    copy((uint16_t *)array + at, &halves, count, sizeof(uint16_t));
}

/* Where target (y, x) of one RoI finds its terms. */
typedef struct {
    const Axis *ys, *xs;
    int y, x;
    Py_ssize_t base, row; /* number of the first source; sources in a row */
} Target;

/* sums[v] = the terms of a target in channels c + 16 v and up: `count` channels in all */
INLINE void sum_terms(const Job *job, Target to, int c, int count, int bf16, Floats *sums)
{
    const Term *terms_y = to.ys->terms, *terms_x = to.xs->terms;
    for (int v = 0; v * WIDTH < count; v++)
        sums[v] = (Floats){0};
    for (Py_ssize_t i = to.ys->begin[to.y]; i < to.ys->begin[to.y + 1]; i++) {
        for (Py_ssize_t j = to.xs->begin[to.x]; j < to.xs->begin[to.x + 1]; j++) {
            float weight = terms_y[i].weight * terms_x[j].weight;
            Py_ssize_t source = to.base + terms_y[i].source * to.row + terms_x[j].source;
            Py_ssize_t at = source * job->channels + c;
            for (int v = 0; v * WIDTH < count; v++) {
                int some = count < WIDTH ? count : WIDTH;
                sums[v] += weight * load(job->source, at + v * WIDTH, some, bf16);
            }
        }
    }
}

/* Channels first to last - 1 of a target, from result[at] on; with `add`, to the floats there. */
INLINE void sum_channels(const Job *job, Target to, int first, int last, int bf16, void *result,
                         Py_ssize_t at, int add)
{
    Floats sums[BLOCK / WIDTH];
    int c = first;
    for (; c + BLOCK <= last; c += BLOCK) {
        sum_terms(job, to, c, BLOCK, bf16, sums);
        for (int v = 0; v * WIDTH < BLOCK; v++, at += WIDTH) {
            if (add)
                sums[v] += load(result, at, WIDTH, 0);
            store(result, at, sums[v], WIDTH, bf16 && !add);
        }
    }
    for (; c < last; c += WIDTH, at += WIDTH) {
        int count = last - c < WIDTH ? last - c : WIDTH;
        sum_terms(job, to, c, count, bf16, sums);
        if (add)
            sums[0] += load(result, at, count, 0);
        store(result, at, sums[0], count, bf16 && !add);
    }
}

FASTEST_CPU_CODE
void pool_roi(const Job *job, const Axis *ys, const Axis *xs, int image, Py_ssize_t row)
{
    Target to = {ys, xs, 0, 0, (Py_ssize_t)image * job->height * job->width, job->width};
    for (to.y = 0; to.y < job->bins_y; to.y++) {
        for (to.x = 0; to.x < job->bins_x; to.x++) {
            Py_ssize_t at = ((row * job->bins_y + to.y) * job->bins_x + to.x) * job->channels;
            if (job->bf16)
                sum_channels(job, to, 0, job->channels, 1, job->result, at, 0);
            else
                sum_channels(job, to, 0, job->channels, 0, job->result, at, 0);
        }
    }
}

FASTEST_CPU_CODE
void spread_roi(const Job *job, const Axis *ys, const Axis *xs, Py_ssize_t row, int first,
                int last, float *map)
{
    Target to = {ys, xs, 0, 0, row * job->bins_y * job->bins_x, job->bins_x};
    for (to.y = 0; to.y < ys->high - ys->low; to.y++) {
        for (to.x = 0; to.x < xs->high - xs->low; to.x++) {
            Py_ssize_t pixel = (Py_ssize_t)(ys->low + to.y) * job->width + xs->low + to.x;
            if (job->bf16)
                sum_channels(job, to, first, last, 1, map, pixel * (last - first), 1);
            else
                sum_channels(job, to, first, last, 0, map, pixel * (last - first), 1);
        }
    }
}

FASTEST_CPU_CODE
void store_map(const Job *job, const float *map, int image, int first, int last)
{
    Py_ssize_t pixels = (Py_ssize_t)job->height * job->width;
    for (Py_ssize_t pixel = 0; pixel < pixels; pixel++) {
        Py_ssize_t to = (image * pixels + pixel) * job->channels, from = pixel * (last - first);
        for (int c = first; c < last; c += WIDTH, from += WIDTH) {
            int count = last - c < WIDTH ? last - c : WIDTH;
            store(job->result, to + c, load(map, from, count, 0), count, job->bf16);
        }
    }
}

/* ---------------------------------------------------------------- the two directions */

/* Pools the RoIs of rows[first] to rows[last - 1]; -1 where memory is lacking. */
static int pool(const Job *job, Py_ssize_t first, Py_ssize_t last)
{
    Axis ys, xs;
    int ready = make_axis(&ys, job->bins_y, job->height);
    ready = make_axis(&xs, job->bins_x, job->width) && ready;
    for (Py_ssize_t i = first; ready && i < last; i++) {
        const float *roi = job->rois + 5 * job->rows[i];
        terms_of_bins(&ys, job, roi[2], roi[4]);
        terms_of_bins(&xs, job, roi[1], roi[3]);
        pool_roi(job, &ys, &xs, (int)roi[0], job->rows[i]);
    }
    free_axis(&ys);
    free_axis(&xs);
    return ready ? 0 : -1;
}

/* The gradient of one image's map in channels first to last - 1; -1 where memory is lacking. */
static int spread(const Job *job, int image, int first, int last)
{
    Axis ys, xs;
    Py_ssize_t pixels = (Py_ssize_t)job->height * job->width;
    float *map = PyMem_RawCalloc(pixels * (last - first), sizeof(float));
    int ready = make_axis(&ys, job->bins_y, job->height) && map;
    ready = make_axis(&xs, job->bins_x, job->width) && ready;
    for (Py_ssize_t i = 0; ready && i < job->row_count; i++) {
        const float *roi = job->rois + 5 * job->rows[i];
        if ((int)roi[0] != image)
            continue;
        terms_of_pixels(&ys, job, roi[2], roi[4]);
        terms_of_pixels(&xs, job, roi[1], roi[3]);
        spread_roi(job, &ys, &xs, job->rows[i], first, last, map);
    }
    if (ready)
        store_map(job, map, image, first, last);
    PyMem_RawFree(map);
    free_axis(&ys);
    free_axis(&xs);
    return ready ? 0 : -1;
}

/* ---------------------------------------------------------------- Python */

static int as_job(PyObject *tuple, void *address)
{
    unsigned long long source, result, rois, rows;
    Job *job = address;
    int parsed = PyArg_ParseTuple(tuple, "KKKKniiiiifipp", &source, &result, &rois, &rows,
                                  &job->row_count, &job->height, &job->width, &job->channels,
                                  &job->bins_y, &job->bins_x, &job->scale, &job->sampling_ratio,
                                  &job->aligned, &job->bf16);
    if (parsed) {
        job->source = (const void *)(uintptr_t)source;
        job->result = (void *)(uintptr_t)result;
        job->rois = (const float *)(uintptr_t)rois;
        job->rows = (const int64_t *)(uintptr_t)rows;
    }
    return parsed;
}

static PyObject *none_or_no_memory(int status)
{
    if (status < 0)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *forward(PyObject *module, PyObject *arguments)
{
    Job job;
    Py_ssize_t first, last;
    int status;
    if (!PyArg_ParseTuple(arguments, "O&nn", as_job, &job, &first, &last))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    status = pool(&job, first, last);
    Py_END_ALLOW_THREADS
    return none_or_no_memory(status);
}

static PyObject *backward(PyObject *module, PyObject *arguments)
{
    Job job;
    int image, first, last, status;
    if (!PyArg_ParseTuple(arguments, "O&iii", as_job, &job, &image, &first, &last))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    status = spread(&job, image, first, last);
    Py_END_ALLOW_THREADS
    return none_or_no_memory(status);
}

static PyMethodDef methods[] = {
    {"forward", forward, METH_VARARGS, "forward(job, first, last): pools RoIs first to last - 1"},
    {"backward", backward, METH_VARARGS,
     "backward(job, image, first, last): gradient of channels first to last - 1 of an image's map"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_roi_align", "RoIAlign; see roi_align.py", -1, methods,
};

PyMODINIT_FUNC PyInit__roi_align(void)
{
    return PyModule_Create(&definition);
}
