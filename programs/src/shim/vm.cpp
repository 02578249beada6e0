// One virtual machine: made, loaded with a program, frozen, and called within limits.
#include "shim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <unordered_set>
#include <vector>

#include "ldebug.h"
#include "ldo.h"
#include "lgc.h"
#include "lobject.h"
#include "lstate.h"
#include "lstring.h"
#include "ltable.h"

#include "Luau/Bytecode.h"
#include "Luau/BytecodeUtils.h"

namespace {

// Small objects stand in pages, which are of the machine and not of a call: what they hold is counted where it is made. Two for
// each of 40 sizes may be begun in a call, and this is above them: it is never reached where that is right.
constexpr size_t PAGES_BYTES = 4 * 1024 * 1024;
constexpr size_t PAGE_BYTES[] = {16 * 1024 - 24, 32 * 1024 - 24};
// Of a block that is made or grown: it is cleared, copied or hashed. Smaller ones are paid by the step that made them, and
// whether a short text is made at all depends on what was said before.
constexpr size_t LARGE_BYTES = 1024;
constexpr uint64_t LARGE_BYTES_PER_UNIT = 32;
// How often the clock is looked at: at first, and then.
constexpr uint32_t WATCH_FIRST_UNITS = 32;
constexpr uint32_t WATCH_UNITS_MAX = 256;
constexpr uint32_t WATCH_UNITS_MIN = 1;
constexpr uint64_t WATCH_BYTES = 16 * 1024;
// A look each so many units is enough where they take no longer than that.
constexpr uint64_t WATCH_STEP_US = 50;
constexpr int TRACE_LEVELS = 8;
// A chain of what outlives calls at most: whatever a call asks for in it walks it, and no program has one of half that by chance.
constexpr uint32_t CHAIN_MAX = 128;

uint64_t time_us(clockid_t clock)
{
    timespec time = {};
    clock_gettime(clock, &time);
    return uint64_t(time.tv_sec) * 1000000 + uint64_t(time.tv_nsec) / 1000;
}

// The clock of the thread's CPU time is a call of the kernel, as dear as a whole short program; the wall's is none. A call cannot
// have had more of the CPU than of the wall, so that the CPU's is read only where the wall's leaves it open, and once early on, for
// what it is to be compared with.
void read_cpu(banter_vm* vm, uint64_t wall_us)
{
    uint64_t passed_us = wall_us - vm->watched_from_us, cpu_us = time_us(CLOCK_THREAD_CPUTIME_ID);
    if (vm->cpu_us == 0)
        // What the wall's clock says of the time before counts, but a call is not ended by that alone: its core may have waited.
        vm->used_us = passed_us < vm->watch_us / 2 ? passed_us : vm->watch_us / 2;
    else
        vm->used_us += cpu_us - vm->cpu_us;
    vm->cpu_us = cpu_us > 0 ? cpu_us : 1;
    vm->watched_from_us = wall_us;
}

void latch(banter_vm* vm, uint32_t fault)
{
    if (vm->fault != BANTER_OK)
        return;
    vm->fault = fault;
    vm->look_at = 0;
}

// Ends the call where it had more of the CPU than that.
void watch_time(banter_vm* vm, uint64_t wall_us, uint64_t limit_us)
{
    if (!vm->is_watched) {
        vm->is_watched = true;
        vm->watched_from_us = vm->watched_us = wall_us;
        return;
    }
    uint64_t most_us = vm->used_us + (wall_us - vm->watched_from_us);
    bool is_early = vm->cpu_us == 0 && most_us > WATCH_STEP_US;
    if (is_early || most_us > limit_us)
        read_cpu(vm, wall_us);
    if (vm->used_us > limit_us) {
        vm->is_over_time = true;
        latch(vm, BANTER_CPU);
    }
}

// By what the call asked for, and not by what the machine happens to have: a call fails where it did before.
bool may_allocate(banter_vm* vm, size_t old_size, size_t new_size)
{
    bool is_page = old_size == 0 && (new_size == PAGE_BYTES[0] || new_size == PAGE_BYTES[1]);
    // Code without a loop or a call is looked at nowhere else. A table that grows is filled anew in one stretch, which takes what it
    // took to fill it so far where its keys are in one chain: behind three quarters of the time there might not be enough left.
    if (vm->watch_us && vm->fault == BANTER_OK && old_size == 0 && new_size >= PAGE_BYTES[0])
        watch_time(vm, time_us(CLOCK_MONOTONIC), is_page ? vm->watch_us : vm->watch_us * 3 / 4);
    if (vm->watch_us && vm->fault == BANTER_CPU)
        return false;
    if (!is_page && vm->bytes + (new_size - old_size) > vm->bytes_max)
        return false;
    return vm->allocated - old_size + new_size <= vm->allocated_max;
}

void* allocate(void* ud, void* block, size_t old_size, size_t new_size)
{
    banter_vm* vm = (banter_vm*)ud;
    if (new_size > old_size && !may_allocate(vm, old_size, new_size)) {
        // It is told at once by an error that may be caught, and again at the next step.
        if (vm->fault == BANTER_OK)
            vm->fault = BANTER_MEMORY;
        vm->look_at = 0;
        return nullptr;
    }
    vm->allocated = vm->allocated - old_size + new_size;
    if (new_size == 0) {
        free(block);
        return nullptr;
    }
    void* moved = realloc(block, new_size);
    if (!moved)
        abort();
    return moved;
}

void append(char* out, size_t* length, const char* text, size_t bytes)
{
    size_t room = MESSAGE_BYTES - *length;
    bytes = bytes < room ? bytes : room;
    memcpy(out + *length, text, bytes);
    *length += bytes;
}

void write_trace(lua_State* L)
{
    banter_vm* vm = vm_of(L);
    vm->trace_length = 0;
    lua_Debug frame = {};
    for (int level = 0, told = 0; told < TRACE_LEVELS && lua_getinfo(L, level, "sln", &frame); level++) {
        if (frame.currentline < 0)
            continue;
        char line[160];
        int bytes = snprintf(line, sizeof(line), "%s%.64s:%d%s%.48s", told ? ", " : "", frame.short_src, frame.currentline,
            frame.name ? " in " : "", frame.name ? frame.name : "");
        append(vm->trace, &vm->trace_length, line, bytes < int(sizeof(line)) ? size_t(bytes) : sizeof(line) - 1);
        told++;
    }
}

void set_next_look(banter_vm* vm)
{
    uint64_t end = uint64_t(vm->units_max) + 1;
    uint64_t look = vm->watch_us ? uint64_t(vm->units) + vm->watch_each : end;
    look = look < end ? look : end;
    vm->look_bytes = vm->bytes + WATCH_BYTES;
    vm->look_at = vm->fault != BANTER_OK ? 0 : look < UINT32_MAX ? uint32_t(look) : UINT32_MAX;
}

void watch(banter_vm* vm)
{
    uint64_t wall_us = time_us(CLOCK_MONOTONIC);
    if (vm->is_watched) {
        uint64_t took_us = wall_us - vm->watched_us;
        // Where units take long, it is looked at more often: the last stretch is what a call may be late by.
        uint64_t each = took_us <= WATCH_STEP_US ? WATCH_UNITS_MAX : vm->watch_each * WATCH_STEP_US / took_us;
        vm->watch_each = each < WATCH_UNITS_MIN ? WATCH_UNITS_MIN : each > WATCH_UNITS_MAX ? WATCH_UNITS_MAX : uint32_t(each);
    }
    watch_time(vm, wall_us, vm->watch_us);
    vm->watched_us = wall_us;
}

}

// More than the number of units is looked at: rarely, or after a fault at each step.
void look(lua_State* L, banter_vm* vm)
{
    if (vm->fault == BANTER_OK && vm->bytes > vm->bytes_max)
        latch(vm, BANTER_MEMORY);
    if (vm->fault == BANTER_OK && vm->units > vm->units_max)
        latch(vm, BANTER_CPU);
    if (vm->fault == BANTER_OK && vm->watch_us)
        watch(vm);
    set_next_look(vm);
    if (vm->fault != BANTER_OK)
        raise_fault(L, vm->fault);
}

namespace {

void on_interrupt(lua_State* L, int gc)
{
    if (gc >= 0)
        return;
    banter_vm* vm = vm_of(L);
    vm->units += vm->units < UINT32_MAX;
    if (vm->units >= vm->look_at)
        look(L, vm);
}

void add_units(banter_vm* vm, uint64_t units)
{
    units += vm->units;
    vm->units = units < UINT32_MAX ? uint32_t(units) : UINT32_MAX;
}

// Counts the texts that were made since: a text has no hash yet when it is allocated, and has one when the next is. What was begun
// and is not in the table stays without: it is longer than those that cost nothing by their bytes.
void count_made(banter_vm* vm)
{
    for (; vm->made_counted < vm->made_count; vm->made_counted++) {
        const TString* text = vm->made[vm->made_counted];
        if (text->hash == 0 && vm->state->global->strt.hash[0] != text)
            continue;
        uint16_t& alike = vm->alike[text->hash % ALIKE_GROUPS];
        add_units(vm, alike / ALIKE_PER_UNIT);
        alike += alike < UINT16_MAX;
    }
}

void note_made(banter_vm* vm, TString* text)
{
    count_made(vm);
    if (vm->made_count == vm->made_max) {
        constexpr uint32_t FIRST_TEXTS = 64;
        vm->made_max = vm->made_max ? 2 * vm->made_max : FIRST_TEXTS;
        vm->made = (TString**)realloc(vm->made, vm->made_max * sizeof(TString*));
        if (!vm->made)
            abort();
    }
    vm->made[vm->made_count++] = text;
}

// Takes what a call made out of the table of texts, where nothing asks for it any more: the next call finds what the program itself
// has and nothing else, however many there were, and a text that is collected is not looked for among those that are alike.
void forget_made(banter_vm* vm)
{
    stringtable& texts = vm->state->global->strt;
    for (uint32_t number = 0; number < vm->made_count; number++) {
        unsigned int hash = vm->made[number]->hash;
        vm->alike[hash % ALIKE_GROUPS] = 0;
        for (TString** at = &texts.hash[lmod(hash, texts.size)]; *at;) {
            TString* text = *at;
            if (isfixed(obj2gco(text))) {
                at = &text->next;
                continue;
            }
            *at = text->next;
            text->next = nullptr;
            texts.nuse--;
        }
    }
    vm->made_count = vm->made_counted = 0;
}

// What there is by now is of the program, and stays.
void keep_made(banter_vm* vm)
{
    free(vm->made);
    vm->made = nullptr;
    vm->made_count = vm->made_max = vm->made_counted = 0;
    memset(vm->alike, 0, sizeof(vm->alike));
}

// Marks all texts that there are as those of the program: nothing of it is collected before its machine is.
void fix_texts(lua_State* L)
{
    const stringtable& texts = L->global->strt;
    for (int chain = 0; chain < texts.size; chain++)
        for (TString* text = texts.hash[chain]; text; text = text->next)
            luaS_fix(text);
}

// Nothing can be raised here: the block is not in its place yet. The next step does.
void on_allocate(lua_State* L, void* block, size_t old_size, size_t new_size, uint8_t, int type, int)
{
    banter_vm* vm = vm_of(L);
    if (new_size <= old_size)
        return;
    if (type == LUA_TSTRING)
        note_made(vm, (TString*)block);
    vm->bytes += new_size - old_size;
    if (vm->bytes > vm->bytes_max || vm->bytes > vm->look_bytes)
        vm->look_at = 0;
    if (new_size >= LARGE_BYTES)
        add_units(vm, new_size / LARGE_BYTES_PER_UNIT);
}

[[noreturn]] void on_panic(lua_State*, int)
{
    fputs("banter: an error of a program outside of a protected call\n", stderr);
    abort();
}

// Whatever grows by use and stays is as it was ahead of each call: what a call takes is not for those before it to say.
constexpr int STACK_SLOTS = 1024;
constexpr int CALL_FRAMES = 64;
// As many short texts as the memory of a call by default holds: the table of texts does not grow within one.
constexpr uint32_t TEXTS_MAX = 8192;

void make_ready(lua_State* L)
{
    stringtable& texts = L->global->strt;
    int size = texts.size;
    while (uint32_t(texts.nuse) + TEXTS_MAX > uint32_t(size))
        size *= 2;
    if (size != texts.size)
        luaS_resize(L, size);
    if (L->stacksize != STACK_SLOTS + EXTRA_STACK)
        luaD_reallocstack(L, STACK_SLOTS, 0);
    if (L->size_ci != CALL_FRAMES)
        luaD_reallocCI(L, CALL_FRAMES);
}

void begin(banter_vm* vm, void* host, const banter_limits& limits)
{
    make_ready(vm->state);
    vm->host = host;
    vm->units = 0;
    vm->units_max = limits.units < UINT32_MAX - 1 ? limits.units : UINT32_MAX - 2;
    vm->fault = BANTER_OK;
    vm->bytes = 0;
    vm->bytes_max = limits.bytes;
    vm->allocated_max = vm->allocated + size_t(limits.bytes) + PAGES_BYTES;
    vm->watch_us = limits.watch_us;
    vm->is_watched = false;
    vm->is_over_time = false;
    vm->cpu_us = 0;
    vm->used_us = 0;
    vm->watch_each = WATCH_FIRST_UNITS;
    if (vm->watch_us && limits.is_large) {
        vm->is_watched = true;
        vm->watched_from_us = vm->watched_us = time_us(CLOCK_MONOTONIC);
        read_cpu(vm, vm->watched_from_us);
    }
    vm->message_length = 0;
    vm->trace_length = 0;
    set_next_look(vm);
    vm->watch_each = WATCH_UNITS_MAX;
}

void keep_message(lua_State* L, banter_vm* vm, int status)
{
    vm->message_length = 0;
    const TValue* error = L->top > L->base ? L->top - 1 : nullptr;
    if (error && ttisstring(error))
        append(vm->message, &vm->message_length, getstr(tsvalue(error)), tsvalue(error)->len);
    else
        append(vm->message, &vm->message_length, "the error is no text", 20);
    if (vm->fault == BANTER_OK)
        vm->fault = status == LUA_ERRMEM ? BANTER_MEMORY : BANTER_FAILED;
}

void end(banter_vm* vm, banter_result* out)
{
    vm->host = nullptr;
    vm->allocated_max = SIZE_MAX;
    lua_settop(vm->state, 0);
    count_made(vm);
    forget_made(vm);
    if (vm->bytes > vm->bytes_max && (vm->fault == BANTER_OK || vm->fault == BANTER_FAILED))
        vm->fault = BANTER_MEMORY;
    if (vm->units > vm->units_max && (vm->fault == BANTER_OK || vm->fault == BANTER_FAILED))
        vm->fault = BANTER_CPU;
    out->fault = vm->fault;
    out->units = vm->units < vm->units_max ? vm->units : vm->units_max;
    out->is_over_time = vm->fault == BANTER_CPU && vm->is_over_time;
    out->message = vm->message;
    out->message_length = vm->message_length;
    out->trace = vm->trace;
    out->trace_length = vm->trace_length;
    out->bytes = vm->bytes;
    // What is allocated between calls has no limit: nothing could be raised there.
    vm->fault = BANTER_OK;
    vm->units = 0;
    vm->units_max = UINT32_MAX - 2;
    vm->watch_us = 0;
    vm->bytes = 0;
    vm->bytes_max = UINT64_MAX;
}

int trace_handler(lua_State* L)
{
    banter_vm* vm = vm_of(L);
    if (vm->trace_length == 0 || vm->fault == BANTER_OK)
        write_trace(L);
    return lua_gettop(L) >= 1 ? 1 : 0;
}

int emit_returned(lua_State* L)
{
    emit_value(L, 1, 0);
    return 0;
}

int set_up(lua_State* L)
{
    banter_vm* vm = vm_of(L);
    open_library(L);
    lua_newuserdatataggedwithmetatable(L, 1, TAG_ROOM);
    vm->room = lua_ref(L, -1);
    lua_newuserdatataggedwithmetatable(L, 1, TAG_EVENT);
    vm->event = lua_ref(L, -1);
    lua_pushcfunction(L, trace_handler, "trace");
    vm->tracer = lua_ref(L, -1);
    lua_pushcfunction(L, emit_returned, "returned");
    vm->emitter = lua_ref(L, -1);
    const char* const messages[] = {"", "out of units", "out of memory", "stopped", ""};
    for (uint32_t fault = BANTER_OK; fault <= BANTER_FAILED; fault++) {
        lua_pushstring(L, messages[fault]);
        vm->fault_messages[fault] = lua_ref(L, -1);
    }
    return 0;
}

// ---- What outlives a call is made so that no call changes it.

struct Frozen {
    std::unordered_set<const void*> seen;
    std::vector<TValue> left;
    int line = 0;
    const TString* name = nullptr;
    // One of the tables has too many keys in one chain.
    bool is_chained = false;
};

bool has_long_chain(const stringtable& texts)
{
    for (int chain = 0; chain < texts.size; chain++) {
        uint32_t length = 0;
        for (const TString* text = texts.hash[chain]; text; text = text->next)
            if (++length > CHAIN_MAX)
                return true;
    }
    return false;
}

// From whichever node: a chain is as long as what is left of it from its first.
bool has_long_chain(const LuaTable* table)
{
    for (int at = 0; at < sizenode(table); at++) {
        uint32_t length = 0;
        for (const LuaNode* node = gnode(table, at); gnext(node) != 0; node += gnext(node))
            if (++length > CHAIN_MAX)
                return true;
    }
    return false;
}

// Whether code assigns a global, or one of those of its upvalues that outlive the call.
bool assigns(Frozen& frozen, Proto* proto, const std::vector<bool>& outlives)
{
    Proto* made = nullptr;
    std::vector<bool> captured;
    for (int pc = 0; pc < proto->sizecode;) {
        Instruction code = proto->code[pc];
        LuauOpcode op = LuauOpcode(LUAU_INSN_OP(code));
        size_t upvalue = LUAU_INSN_B(code);
        bool is_lasting = op == LOP_SETUPVAL && upvalue < outlives.size() && outlives[upvalue];
        if (op == LOP_SETGLOBAL || is_lasting) {
            frozen.line = luaG_getline(proto, pc);
            if (op == LOP_SETGLOBAL)
                frozen.name = tsvalue(&proto->k[proto->code[pc + 1]]);
            return true;
        }
        if (op == LOP_NEWCLOSURE || op == LOP_DUPCLOSURE) {
            const TValue* constant = op == LOP_DUPCLOSURE ? &proto->k[LUAU_INSN_D(code)] : nullptr;
            made = constant ? clvalue(constant)->l.p : proto->p[LUAU_INSN_D(code)];
            captured.clear();
        }
        pc += Luau::getOpLength(op);
        if (op == LOP_CAPTURE)
            captured.push_back(LUAU_INSN_A(code) == LCT_UPVAL && upvalue < outlives.size() && outlives[upvalue]);
        bool is_whole = made && (pc >= proto->sizecode || LUAU_INSN_OP(proto->code[pc]) != LOP_CAPTURE);
        if (is_whole) {
            if (assigns(frozen, made, captured))
                return true;
            made = nullptr;
        }
    }
    return false;
}

bool freeze_closure(Frozen& frozen, Closure* closure)
{
    if (closure->isC) {
        for (int number = 0; number < closure->nupvalues; number++)
            frozen.left.push_back(closure->c.upvals[number]);
        return true;
    }
    for (int number = 0; number < closure->nupvalues; number++) {
        const TValue* captured = &closure->l.uprefs[number];
        frozen.left.push_back(ttisupval(captured) ? *upvalue(captured)->v : *captured);
    }
    return !assigns(frozen, closure->l.p, std::vector<bool>(closure->nupvalues, true));
}

// Freezes what is within reach of the globals; false: a function would change what outlives its call.
bool freeze(lua_State* L, Frozen& frozen)
{
    TValue globals;
    sethvalue(L, &globals, L->gt);
    frozen.left.push_back(globals);
    while (!frozen.left.empty()) {
        const TValue last = frozen.left.back();
        const TValue* value = &last;
        frozen.left.pop_back();
        if (!iscollectable(value) || !frozen.seen.insert(gcvalue(value)).second)
            continue;
        if (ttisfunction(value) && !freeze_closure(frozen, clvalue(value)))
            return false;
        if (!ttistable(value))
            continue;
        LuaTable* table = hvalue(value);
        table->readonly |= 1;
        frozen.is_chained |= has_long_chain(table);
        for (int at = 0; at < table->sizearray; at++)
            frozen.left.push_back(table->array[at]);
        for (int at = 0; at < sizenode(table); at++) {
            const LuaNode* node = gnode(table, at);
            if (ttisnil(gval(node)))
                continue;
            TValue key;
            getnodekey(L, &key, node);
            frozen.left.push_back(*gval(node));
            frozen.left.push_back(key);
        }
    }
    return true;
}
}

[[noreturn]] void raise_fault(lua_State* L, uint32_t fault)
{
    latch(vm_of(L), fault);
    if (vm_of(L)->trace_length == 0)
        write_trace(L);
    luaD_checkstack(L, 1);
    const TValue* message = luaH_getnum(hvalue(registry(L)), vm_of(L)->fault_messages[vm_of(L)->fault]);
    setobj2s(L, L->top, message);
    L->top++;
    luaD_throw(L, LUA_ERRRUN);
}

extern "C" {

banter_vm* banter_vm_new(void* host)
{
    banter_vm* vm = (banter_vm*)calloc(1, sizeof(banter_vm));
    if (!vm)
        abort();
    vm->allocated_max = SIZE_MAX;
    vm->units_max = UINT32_MAX - 2;
    vm->look_at = UINT32_MAX;
    vm->bytes_max = UINT64_MAX;
    vm->look_bytes = UINT64_MAX;
    vm->host = host;
    lua_State* L = lua_newstate(allocate, vm);
    if (!L)
        abort();
    vm->state = L;
    lua_gc(L, LUA_GCSTOP, 0);
    lua_Callbacks* callbacks = lua_callbacks(L);
    callbacks->panic = on_panic;
    callbacks->useratom = atom_of;
    if (lua_cpcall(L, set_up, nullptr) != 0) {
        fprintf(stderr, "banter: the library of programs: %s\n", lua_tostring(L, -1));
        abort();
    }
    callbacks->interrupt = on_interrupt;
    callbacks->onallocate = on_allocate;
    lua_settop(L, 0);
    lua_gc(L, LUA_GCCOLLECT, 0);
    lua_gc(L, LUA_GCSTOP, 0);
    keep_made(vm);
    fix_texts(L);
    vm->host = nullptr;
    return vm;
}

void banter_vm_close(banter_vm* vm)
{
    lua_close(vm->state);
    free(vm->made);
    free(vm);
}

// Runs the chunk and freezes what it made. `line` is above 0 where a function would change what outlives its call.
void banter_vm_load(banter_vm* vm, void* host, const char* name, const char* bytecode, size_t length, const banter_limits* limits,
    banter_result* out, uint32_t* line)
{
    lua_State* L = vm->state;
    *line = 0;
    begin(vm, host, *limits);
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->tracer);
    // It is no protected call: nothing may fail there that has not to.
    vm->watch_us = 0;
    int status = luau_load(L, name, bytecode, length, 0);
    vm->watch_us = limits->watch_us;
    if (status == 0)
        status = lua_pcall(L, 0, 0, 1);
    if (status != 0) {
        keep_message(L, vm, status);
    } else {
        Frozen frozen;
        if (!freeze(L, frozen)) {
            vm->fault = BANTER_FAILED;
            *line = uint32_t(frozen.line);
            const char* text = frozen.name ? getstr(frozen.name) : "";
            append(vm->message, &vm->message_length, text, strlen(text));
        } else if (frozen.is_chained || has_long_chain(L->global->strt)) {
            const char text[] = "too many of its texts or keys have the same hash";
            vm->fault = BANTER_FAILED;
            append(vm->message, &vm->message_length, text, sizeof(text) - 1);
        }
    }
    count_made(vm);
    keep_made(vm);
    end(vm, out);
    lua_gc(L, LUA_GCCOLLECT, 0);
    lua_gc(L, LUA_GCSTOP, 0);
    fix_texts(L);
}

// The type of a global: 0 none, 1 a function, 2 another value, 3 a number, which is in `number` then.
uint32_t banter_vm_global(banter_vm* vm, const char* name, double* number)
{
    lua_State* L = vm->state;
    int type = lua_rawgetfield(L, LUA_GLOBALSINDEX, name);
    *number = type == LUA_TNUMBER ? lua_tonumber(L, -1) : 0;
    lua_settop(L, 0);
    forget_made(vm);
    return type == LUA_TNIL ? 0 : type == LUA_TFUNCTION ? 1 : type == LUA_TNUMBER ? 3 : 2;
}

// Finds the function of a hook for its calls.
void banter_vm_hook(banter_vm* vm, uint32_t hook, const char* name)
{
    lua_State* L = vm->state;
    lua_rawgetfield(L, LUA_GLOBALSINDEX, name);
    vm->hooks[hook] = lua_ref(L, -1);
    lua_settop(L, 0);
    forget_made(vm);
}

// Tells the name of each global, and with a dot those of what is in each table of them.
void banter_vm_globals(banter_vm* vm, void* told, void (*tell)(void* told, const char* text, size_t length, uint32_t is_function))
{
    lua_State* L = vm->state;
    for (int at = 0; (at = lua_rawiter(L, LUA_GLOBALSINDEX, at)) >= 0;) {
        size_t length = 0;
        const char* name = lua_tolstring(L, -2, &length);
        tell(told, name, length, lua_isfunction(L, -1));
        if (lua_istable(L, -1)) {
            for (int inner = 0; (inner = lua_rawiter(L, -1, inner)) >= 0;) {
                if (lua_type(L, -2) == LUA_TSTRING) {
                    char whole[160];
                    int bytes = snprintf(whole, sizeof(whole), "%.64s.%.64s", name, lua_tostring(L, -2));
                    tell(told, whole, size_t(bytes), lua_isfunction(L, -1));
                }
                lua_pop(L, 2);
            }
        }
        lua_pop(L, 2);
    }
    lua_settop(L, 0);
}

// Pushes what was kept with lua_ref: without what lua_rawgeti asks of any table and index.
static void push_kept(lua_State* L, int ref)
{
    const TValue* kept = luaH_getnum(hvalue(registry(L)), ref);
    setobj2s(L, L->top, kept);
    L->top++;
}

// Calls a hook. `text` is its second argument: a text, or without one the number, or the event where `number` is below 0.
void banter_vm_call(banter_vm* vm, void* host, uint32_t hook, const char* text, size_t length, double number,
    const banter_limits* limits, banter_result* out)
{
    lua_State* L = vm->state;
    // The stack has nothing on it, so that there is room for these.
    push_kept(L, vm->tracer);
    push_kept(L, vm->hooks[hook]);
    push_kept(L, vm->room);
    if (text)
        lua_pushlstring(L, text, length);
    else if (number >= 0)
        lua_pushnumber(L, number);
    else
        push_kept(L, vm->event);
    // Behind that: out of a protected call nothing may fail, and without a limit nothing does.
    begin(vm, host, *limits);
    int status = lua_pcall(L, 2, 1, 1);
    out->is_verdict = 0;
    if (status == 0 && vm->fault == BANTER_OK && !ttisnil(L->top - 1)) {
        if (lua_type(L, -1) == LUA_TLIGHTUSERDATA && lua_lightuserdatatag(L, -1) == LIGHT_VERDICT) {
            out->is_verdict = 1;
            out->verdict = uint32_t((uintptr_t)lua_tolightuserdata(L, -1) - 1);
        } else {
            lua_rawgeti(L, LUA_REGISTRYINDEX, vm->emitter);
            lua_insert(L, -2);
            status = lua_pcall(L, 1, 0, 1);
        }
    }
    if (status != 0)
        keep_message(L, vm, status);
    end(vm, out);
}

// Collects garbage for about so many KiB of work; whether more is left of this round.
int banter_vm_step(banter_vm* vm, int kib)
{
    int is_over = lua_gc(vm->state, LUA_GCSTEP, kib);
    lua_gc(vm->state, LUA_GCSTOP, 0);
    return !is_over;
}

size_t banter_vm_bytes(banter_vm* vm)
{
    return lua_totalbytes(vm->state, -1);
}

size_t banter_vm_allocated(banter_vm* vm)
{
    return vm->allocated;
}
}
