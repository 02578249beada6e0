// What passes between Rust and the virtual machine: plain values, pointers and lengths.
//
// Rust never sees a lua_State, and no Rust frame is ever below a raised error: a function of the library reads its arguments,
// calls Rust, comes back, and only then pushes or raises.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "lobject.h"
#include "lstate.h"
#include "lstring.h"
#include "lua.h"
#include "lualib.h"

extern "C" {

// Of a value, or of a mark in the list that a table is.
enum banter_tag : uint32_t {
    BANTER_NIL = 0,
    BANTER_FALSE = 1,
    BANTER_TRUE = 2,
    BANTER_NUMBER = 3,
    BANTER_TEXT = 4,
    // From Rust: so many values follow. To Rust: keys and values follow, up to BANTER_END.
    BANTER_LIST = 5,
    // From Rust: so many pairs of a text and a value follow.
    BANTER_MAP = 6,
    BANTER_TABLE = 7,
    BANTER_END = 8,
    // A value that JSON has none for.
    BANTER_OTHER = 9,
};

struct banter_node {
    uint32_t tag;
    // Bytes of a text; values of a list; pairs of a map.
    uint32_t length;
    double number;
    const char* text;
};

enum banter_answer : uint32_t {
    BANTER_NOTHING = 0,
    // One value.
    BANTER_VALUE = 1,
    // A text and a number.
    BANTER_TEXT_AND_NUMBER = 2,
    // The argument itself and a number.
    BANTER_SAME_AND_NUMBER = 3,
    // A verdict, by its number.
    BANTER_VERDICT = 4,
    // Words of a grant, by their number.
    BANTER_WORDS = 5,
    // An error that the program may catch.
    BANTER_ERROR = 6,
    // The end of the call, which it may not.
    BANTER_FAULT = 7,
    // It would take more units than are left.
    BANTER_SPENT = 8,
};

struct banter_reply {
    uint32_t answer;
    // In: what is left. Out: what it took.
    uint32_t units;
    // A value that holds no other, as most are; the text and the number of an answer that has them.
    banter_node value;
    // A value with what it holds behind it; none: it is `value`.
    const banter_node* nodes;
};

// Rust's side: see vm.rs.
void banter_host(void* host, uint32_t what, const banter_node* arguments, size_t count, banter_reply* reply);
void banter_emit(void* host, const banter_node* node);
size_t banter_match(const char* text, size_t length, size_t from, const char* pattern, size_t pattern_length,
    uint32_t steps_max, int64_t* captures, uint32_t* steps, const char** error);

enum banter_fault : uint32_t {
    BANTER_OK = 0,
    BANTER_CPU = 1,
    BANTER_MEMORY = 2,
    // Rust knows which.
    BANTER_HOST = 3,
    // An error of the program.
    BANTER_FAILED = 4,
};

struct banter_limits {
    uint32_t units;
    uint32_t watch_us;
    uint64_t bytes;
    // Not 0: what it is given is large, so that the first ask may take long; the clocks are read ahead of it.
    uint32_t is_large;
};

struct banter_result {
    uint32_t fault;
    uint32_t units;
    // What the hook gave: nodes of one that is no verdict went through banter_emit.
    uint32_t is_verdict;
    uint32_t verdict;
    // Not 0: the watch ended it, so that its units do not say what it took.
    uint32_t is_over_time;
    // Of the virtual machine; until its next call.
    const char* message;
    size_t message_length;
    const char* trace;
    size_t trace_length;
    uint64_t bytes;
};

struct banter_vm;
}

// Not of the interface to Rust.

constexpr int HOOKS = 7;
constexpr int TAG_EVENT = 1;
constexpr int TAG_ROOM = 2;
constexpr int TAG_WORDS = 3;
constexpr int LIGHT_VERDICT = 1;
// Messages and traces are cut here; Rust cuts their sum.
constexpr size_t MESSAGE_BYTES = 768;

// A text that is made is copied and hashed.
constexpr uint64_t TEXT_BYTES_PER_UNIT = 32;

// Luau's hash of texts has no seed, so that anybody can send thousands that stand in one chain of its table, and of the tables that
// they are keys of: to find or to add one walks all before it. So texts are counted by the low bits of their hash while a call makes
// them, and each costs by how many are alike. There are as many groups as there are texts in a call that has most of its memory in
// short ones: two or three in one by chance, and none of those costs.
constexpr uint32_t ALIKE_GROUPS = 4096;
constexpr uint32_t ALIKE_PER_UNIT = 8;

struct banter_vm {
    lua_State* state;
    void* host;
    // Bytes that the machine has of the system, and may have.
    size_t allocated;
    size_t allocated_max;
    // Of this call.
    uint32_t units;
    uint32_t units_max;
    // The next units at which more is looked at than their number; 0 once there is a fault.
    uint32_t look_at;
    uint32_t fault;
    uint64_t bytes;
    uint64_t bytes_max;
    // CPU time that a call may take, by the thread's clock; 0: any.
    uint64_t watch_us;
    // By the wall's clock: since when, and when it was looked at last.
    uint64_t watched_from_us;
    uint64_t watched_us;
    // The clock of the CPU as it was read last, 0: not yet in this call; and what the call used by then.
    uint64_t cpu_us;
    uint64_t used_us;
    uint32_t watch_each;
    // What was allocated by then is looked at too: code without a loop or a call has no units.
    uint64_t look_bytes;
    bool is_watched;
    bool is_over_time;
    // The texts that this call made, which go from the table of texts with it; and how many of them are counted in `alike`.
    TString** made;
    uint32_t made_count;
    uint32_t made_max;
    uint32_t made_counted;
    uint16_t alike[ALIKE_GROUPS];
    int hooks[HOOKS];
    int room;
    int event;
    int tracer;
    int emitter;
    int fault_messages[BANTER_FAILED + 1];
    char message[MESSAGE_BYTES];
    size_t message_length;
    char trace[MESSAGE_BYTES];
    size_t trace_length;
};

inline banter_vm* vm_of(lua_State* state)
{
    return (banter_vm*)state->global->ud;
}

// More than the number of units is looked at: raises where there are too many, or was a fault.
void look(lua_State* state, banter_vm* vm);

// Counts units, and raises once there are too many.
inline void charge(lua_State* state, uint64_t units)
{
    banter_vm* vm = vm_of(state);
    uint64_t sum = vm->units + units;
    vm->units = sum < UINT32_MAX ? uint32_t(sum) : UINT32_MAX;
    if (vm->units >= vm->look_at)
        look(state, vm);
}

// Charges the text on top of the stack by those that are alike: it was looked for among them, and is again where it is a key.
inline void charge_alike(lua_State* L)
{
    uint32_t alike = vm_of(L)->alike[tsvalue(L->top - 1)->hash % ALIKE_GROUPS];
    if (alike >= ALIKE_PER_UNIT)
        charge(L, alike / ALIKE_PER_UNIT);
}

[[noreturn]] void raise_fault(lua_State* state, uint32_t fault);
int ask_host(lua_State* state, uint32_t what, int first);
// A text of that size is made in its place, and not copied once more.
constexpr size_t LARGE_TEXT_BYTES = 512;
void push_text(lua_State* state, const char* text, size_t length);
void push_value(lua_State* state, const banter_node** at, int depth);
void emit_value(lua_State* state, int index, int depth);
// The library, closed; in a protected call.
int open_library(lua_State* state);
// Of `string`, up to one without a name.
extern const luaL_Reg PATTERNS[];
int16_t atom_of(lua_State* state, const char* text, size_t length);
