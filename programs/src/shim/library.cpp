// The library of a program: a list of what may be called, each with what it costs by the length of what it is given.
#include "shim.h"

#include <string.h>

#include <initializer_list>

#include "ldo.h"

namespace {

// What Rust is asked: the same numbers as in ask.rs.
enum : uint32_t {
    ASK_GET = 1, ASK_SET, ASK_TABLE, ASK_REPLACE, ASK_RAW, ASK_VIEW,
    ASK_USER = 16, ASK_NOW_MS, ASK_KEY, ASK_HOP, ASK_SIZE,
    ASK_NAME = 32, ASK_EPOCH, ASK_HEAD, ASK_MEMBERS,
    ASK_HAS = 40, ASK_POST, ASK_POST_TO, ASK_WHISPER, ASK_SIGNAL, ASK_AFTER, ASK_CANCEL,
    ASK_STATE_GET = 50, ASK_STATE_SET, ASK_STATE_KEYS,
    ASK_RANDOM = 60, ASK_JSON, ASK_TEXT, ASK_LOG, ASK_WORDS, ASK_REFUSE, ASK_TAKE, ASK_ROUTE,
    ASK_WORDS_HAS = 70, ASK_WORDS_MASK,
    ASK_CONFIG = 80,
};

struct Name {
    const char* name;
    uint32_t what;
};

const Name EVENT_METHODS[] = {
    {"get", ASK_GET}, {"set", ASK_SET}, {"table", ASK_TABLE}, {"replace", ASK_REPLACE}, {"raw", ASK_RAW}, {"view", ASK_VIEW}, {nullptr, 0},
};
const Name EVENT_FIELDS[] = {
    {"user", ASK_USER}, {"now_ms", ASK_NOW_MS}, {"key", ASK_KEY}, {"hop", ASK_HOP}, {"size", ASK_SIZE}, {nullptr, 0},
};
const Name ROOM_FIELDS[] = {
    {"name", ASK_NAME}, {"epoch", ASK_EPOCH}, {"head", ASK_HEAD}, {"members", ASK_MEMBERS}, {"now_ms", ASK_NOW_MS}, {nullptr, 0},
};
const Name ROOM_FUNCTIONS[] = {
    {"has", ASK_HAS}, {"post", ASK_POST}, {"post_to", ASK_POST_TO}, {"whisper", ASK_WHISPER}, {"signal", ASK_SIGNAL},
    {"after", ASK_AFTER}, {"cancel", ASK_CANCEL}, {nullptr, 0},
};
const Name WORDS_METHODS[] = {{"has", ASK_WORDS_HAS}, {"mask", ASK_WORDS_MASK}, {nullptr, 0}};
const Name STATE_FUNCTIONS[] = {{"get", ASK_STATE_GET}, {"set", ASK_STATE_SET}, {"keys", ASK_STATE_KEYS}, {nullptr, 0}};
const Name GLOBAL_FUNCTIONS[] = {
    {"random", ASK_RANDOM}, {"json", ASK_JSON}, {"text", ASK_TEXT}, {"log", ASK_LOG}, {"words", ASK_WORDS},
    {"refuse", ASK_REFUSE}, {"take", ASK_TAKE}, {"route", ASK_ROUTE}, {nullptr, 0},
};

// Names of methods and fields, numbered: by their number a call finds its function without comparing texts.
const char* const ATOMS[] = {
    "get", "set", "table", "replace", "raw", "view", "user", "now_ms", "key", "hop", "size", "name", "epoch", "head", "members",
    "has", "mask",
};
constexpr int ATOM_COUNT = sizeof(ATOMS) / sizeof(ATOMS[0]);

// What an atom asks of each kind of object; 0: it has none of that name.
uint8_t event_methods[ATOM_COUNT], event_fields[ATOM_COUNT], room_fields[ATOM_COUNT], words_methods[ATOM_COUNT];

void number_names(const Name* names, uint8_t* by_atom)
{
    for (; names->name; names++)
        by_atom[atom_of(nullptr, names->name, strlen(names->name))] = uint8_t(names->what);
}

// Filled once, before there is a machine.
struct Numbered {
    Numbered()
    {
        number_names(EVENT_METHODS, event_methods);
        number_names(EVENT_FIELDS, event_fields);
        number_names(ROOM_FIELDS, room_fields);
        number_names(WORDS_METHODS, words_methods);
    }
} numbered;

uint32_t asked(const uint8_t* by_atom, int atom)
{
    return atom >= 0 && atom < ATOM_COUNT ? by_atom[atom] : 0;
}

[[noreturn]] void no_such_name(lua_State* L, const char* object, const char* name)
{
    luaL_error(L, "%s has no '%.40s'", object, name ? name : "?");
}

void check_self(lua_State* L, int tag, const char* object)
{
    if (L->top == L->base || !ttisuserdata(L->base) || uvalue(L->base)->tag != tag)
        luaL_error(L, "call the functions of %s with a colon", object);
}

int event_namecall(lua_State* L)
{
    int atom = -1;
    const char* name = lua_namecallatom(L, &atom);
    check_self(L, TAG_EVENT, "this value");
    uint32_t what = asked(event_methods, atom);
    if (!what)
        no_such_name(L, "this value", name);
    return ask_host(L, what, 2);
}

int event_index(lua_State* L)
{
    int atom = -1;
    if (L->top - L->base < 2 || !ttisstring(L->base + 1))
        luaL_error(L, "this value has fields with names only");
    const char* name = lua_tostringatom(L, 2, &atom);
    check_self(L, TAG_EVENT, "this value");
    uint32_t what = asked(event_fields, atom);
    if (!what && asked(event_methods, atom))
        luaL_error(L, "call '%s' with a colon and parentheses", name);
    if (!what)
        no_such_name(L, "this value", name);
    return ask_host(L, what, 3);
}

int room_index(lua_State* L)
{
    int atom = -1;
    if (lua_gettop(L) < 2 || lua_type(L, 2) != LUA_TSTRING)
        luaL_error(L, "room has fields with names only");
    const char* name = lua_tostringatom(L, 2, &atom);
    if (uint32_t what = asked(room_fields, atom))
        return ask_host(L, what, 3);
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) == LUA_TNIL)
        no_such_name(L, "room", name);
    return 1;
}

int room_namecall(lua_State* L)
{
    const char* name = lua_namecallatom(L, nullptr);
    luaL_error(L, "write room.%.40s with a dot", name ? name : "?");
}

int words_namecall(lua_State* L)
{
    int atom = -1;
    const char* name = lua_namecallatom(L, &atom);
    const uint32_t* words = (const uint32_t*)lua_touserdatatagged(L, 1, TAG_WORDS);
    if (!words)
        luaL_error(L, "call the functions of words with a colon");
    uint32_t what = asked(words_methods, atom);
    if (!what)
        no_such_name(L, "words", name);
    lua_pushnumber(L, *words);
    lua_replace(L, 1);
    return ask_host(L, what, 1);
}

// A number that a function of the library was made with, from 1.
int own_number(lua_State* L, int place)
{
    return int(nvalue(&clvalue(L->ci->func)->c.upvals[place - 1]));
}

int host_function(lua_State* L)
{
    return ask_host(L, uint32_t(own_number(L, 1)), 1);
}

// ---- What Luau has, charged ahead.

enum Cost : int {
    FREE,
    // By the bytes of all texts.
    TEXTS,
    // As TEXTS, and by the number of arguments.
    ARGUMENTS,
    // By each byte, which may stand for a piece or a number, and by the number of arguments.
    PIECES,
    // Of string.rep: by what comes of it.
    REPEATED,
    // By the values of the list.
    LIST,
    // By what is moved in it.
    MOVED,
    // By the room that the table takes.
    ROOM,
    // Of table.create: by the number.
    CREATED,
    SORTED,
    JOINED,
};

// Whole libraries but for these: nothing in them walks what it is given.
const char* const NOT_OF_MATH[] = {"random", "randomseed"};

constexpr uint64_t VALUES_PER_UNIT = 16;

uint64_t bytes_of_texts(lua_State* L)
{
    uint64_t bytes = 0;
    for (int number = 1, top = lua_gettop(L); number <= top; number++)
        bytes += lua_type(L, number) == LUA_TSTRING ? uint64_t(lua_objlen(L, number)) : 0;
    return bytes;
}

uint64_t list_length(lua_State* L)
{
    return lua_type(L, 1) == LUA_TTABLE ? uint64_t(lua_objlen(L, 1)) : 0;
}

uint64_t table_room(lua_State* L)
{
    if (lua_type(L, 1) != LUA_TTABLE)
        return 0;
    const LuaTable* table = (const LuaTable*)lua_topointer(L, 1);
    return uint64_t(table->sizearray) + (uint64_t(1) << table->lsizenode);
}

uint64_t sort_cost(lua_State* L)
{
    uint64_t length = list_length(L), rounds = 1, bytes = 0;
    for (uint64_t part = length; part > 1; part /= 2)
        rounds++;
    const LuaTable* table = lua_type(L, 1) == LUA_TTABLE ? (const LuaTable*)lua_topointer(L, 1) : nullptr;
    for (int at = 0; table && at < table->sizearray; at++)
        bytes += ttisstring(&table->array[at]) ? tsvalue(&table->array[at])->len : 0;
    return (length * rounds / 4) + (bytes * rounds / 256);
}

uint64_t cost_of(lua_State* L, int cost)
{
    switch (cost) {
    case TEXTS:
        return bytes_of_texts(L) / TEXT_BYTES_PER_UNIT;
    case ARGUMENTS:
        return bytes_of_texts(L) / TEXT_BYTES_PER_UNIT + uint64_t(lua_gettop(L)) / VALUES_PER_UNIT;
    case PIECES:
        return bytes_of_texts(L) / 4 + 2 * uint64_t(lua_gettop(L));
    case REPEATED: {
        double times = lua_gettop(L) >= 2 && lua_isnumber(L, 2) ? lua_tonumber(L, 2) : 0;
        double bytes = lua_type(L, 1) == LUA_TSTRING && times > 0 ? double(lua_objlen(L, 1)) * times : 0;
        return bytes < 1e15 ? uint64_t(bytes) / TEXT_BYTES_PER_UNIT + uint64_t(times < 1e9 ? times : 1e9) / 64 : UINT32_MAX;
    }
    case LIST:
        return list_length(L) / VALUES_PER_UNIT;
    case MOVED:
        return lua_gettop(L) >= 2 ? list_length(L) / VALUES_PER_UNIT : 0;
    case ROOM:
        return table_room(L) / VALUES_PER_UNIT;
    case CREATED: {
        double values = lua_gettop(L) >= 1 && lua_isnumber(L, 1) ? lua_tonumber(L, 1) : 0;
        return values > 0 ? uint64_t(values < 1e12 ? values : 1e12) / VALUES_PER_UNIT : 0;
    }
    case SORTED:
        return sort_cost(L);
    case JOINED:
        return list_length(L) / 4;
    default:
        return 0;
    }
}

int charged(lua_State* L)
{
    charge(L, cost_of(L, own_number(L, 2)));
    lua_CFunction function = (lua_CFunction)lua_tolightuserdata(L, lua_upvalueindex(1));
    return function(L);
}

// A text of few digits is read here: what Luau reads numbers with takes ten times as long as all else in a call of this.
int to_number(lua_State* L)
{
    // Whole numbers of so many digits are exact.
    constexpr unsigned DIGITS_MAX = 15;
    const TString* text = L->top - L->base == 1 && ttisstring(L->base) ? tsvalue(L->base) : nullptr;
    if (!text || text->len == 0 || text->len > DIGITS_MAX)
        return charged(L);
    uint64_t number = 0;
    for (unsigned at = 0; at < text->len; at++) {
        char digit = getstr(text)[at];
        if (digit < '0' || digit > '9')
            return charged(L);
        number = number * 10 + uint64_t(digit - '0');
    }
    // As `charged` does: such a text is shorter than what a unit stands for.
    static_assert(DIGITS_MAX < TEXT_BYTES_PER_UNIT, "else it costs");
    charge(L, 0);
    lua_pushnumber(L, double(number));
    return 1;
}

// `table.insert` with a place moves what is behind it; without one it appends.
int insert_charged(lua_State* L)
{
    if (lua_gettop(L) >= 3)
        charge(L, list_length(L) / VALUES_PER_UNIT);
    lua_CFunction function = (lua_CFunction)lua_tolightuserdata(L, lua_upvalueindex(1));
    return function(L);
}

// A table that was large and is empty takes long to walk to its first value.
int pairs_charged(lua_State* L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    charge(L, table_room(L) / VALUES_PER_UNIT);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushvalue(L, 1);
    lua_pushnil(L);
    return 3;
}

// Replaces what would be told with its address by the name of its type.
void hide_address(lua_State* L, int index)
{
    switch (lua_type(L, index)) {
    case LUA_TNONE:
    case LUA_TNIL:
    case LUA_TBOOLEAN:
    case LUA_TNUMBER:
    case LUA_TSTRING:
        return;
    }
    lua_pushstring(L, luaL_typename(L, index));
    lua_replace(L, index);
}

// `tostring` and `string.format`, where every argument but the pattern may be anything.
int without_addresses(lua_State* L)
{
    int top = lua_gettop(L);
    luaL_checkstack(L, 1, "a name");
    for (int index = 1; index <= top; index++)
        hide_address(L, index);
    return charged(L);
}

// An error that is caught costs many times as much as a step.
constexpr uint64_t CAUGHT_UNITS = 20;

int protected_call(lua_State* L)
{
    luaL_checkany(L, 1);
    int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
    if (status != 0)
        charge(L, CAUGHT_UNITS);
    lua_pushboolean(L, status == 0);
    lua_insert(L, 1);
    return lua_gettop(L);
}

// ---- How it is put together.

struct Charged {
    const char* library;
    const char* name;
    Cost cost;
    lua_CFunction wrapper = charged;
};

const Charged ALLOWED[] = {
    {nullptr, "assert", FREE}, {nullptr, "error", FREE}, {nullptr, "ipairs", FREE},
    {nullptr, "next", ROOM}, {nullptr, "select", ARGUMENTS}, {nullptr, "tonumber", TEXTS, to_number}, {nullptr, "tostring", TEXTS, without_addresses},
    {nullptr, "type", FREE}, {nullptr, "typeof", FREE},
    {"string", "byte", ARGUMENTS}, {"string", "char", ARGUMENTS}, {"string", "format", PIECES, without_addresses}, {"string", "len", FREE},
    {"string", "lower", TEXTS}, {"string", "rep", REPEATED}, {"string", "reverse", TEXTS}, 
    {"string", "upper", TEXTS},
    {"table", "clear", ROOM}, {"table", "clone", ROOM}, {"table", "concat", JOINED}, {"table", "create", CREATED},
    {"table", "find", LIST}, {"table", "freeze", FREE}, {"table", "insert", MOVED, insert_charged}, {"table", "isfrozen", FREE},
    {"table", "pack", ARGUMENTS}, {"table", "remove", MOVED}, {"table", "sort", SORTED}, {"table", "unpack", LIST},
    {"utf8", "char", ARGUMENTS}, {"utf8", "codepoint", PIECES}, {"utf8", "codes", FREE}, {"utf8", "len", TEXTS},
    {"utf8", "offset", TEXTS},
};

void set_functions(lua_State* L, const Name* names)
{
    for (; names->name; names++) {
        lua_pushinteger(L, int(names->what));
        lua_pushcclosure(L, host_function, names->name, 1);
        lua_setfield(L, -2, names->name);
    }
}

// Replaces a library by what of it is allowed; leaves it on the stack.
void close_library(lua_State* L, const char* library)
{
    lua_newtable(L);
    if (library)
        lua_getglobal(L, library);
    else
        lua_pushvalue(L, LUA_GLOBALSINDEX);
    for (const Charged& entry : ALLOWED) {
        bool is_here = library ? entry.library && strcmp(entry.library, library) == 0 : !entry.library;
        if (!is_here)
            continue;
        lua_getfield(L, -1, entry.name);
        if (entry.cost != FREE) {
            lua_CFunction function = lua_tocfunction(L, -1);
            lua_pop(L, 1);
            lua_pushlightuserdata(L, (void*)function);
            lua_pushinteger(L, entry.cost);
            lua_pushcclosure(L, entry.wrapper, entry.name, 2);
        }
        lua_setfield(L, -3, entry.name);
    }
    lua_pop(L, 1);
}

void set_metatable(lua_State* L, int tag, const char* name, lua_CFunction index, lua_CFunction namecall)
{
    // With the table of functions for `index`, or nil, on the stack.
    lua_newtable(L);
    lua_pushstring(L, name);
    lua_setfield(L, -2, "__type");
    if (index) {
        lua_pushvalue(L, -2);
        lua_pushcclosure(L, index, name, 1);
        lua_setfield(L, -2, "__index");
    }
    lua_pushcfunction(L, namecall, name);
    lua_setfield(L, -2, "__namecall");
    lua_setreadonly(L, -1, true);
    lua_setuserdatametatable(L, tag);
    lua_pop(L, 1);
}
}

int16_t atom_of(lua_State*, const char* text, size_t length)
{
    for (int atom = 0; atom < ATOM_COUNT; atom++)
        if (strlen(ATOMS[atom]) == length && memcmp(ATOMS[atom], text, length) == 0)
            return int16_t(atom);
    return -1;
}

int open_library(lua_State* L)
{
    const struct {
        const char* name;
        lua_CFunction open;
    } opened[] = {{"string", luaopen_string}, {"table", luaopen_table}, {"math", luaopen_math}, {"bit32", luaopen_bit32},
        {"utf8", luaopen_utf8}};
    lua_pushcfunction(L, luaopen_base, nullptr);
    lua_call(L, 0, 0);
    for (const auto& library : opened) {
        lua_pushcfunction(L, library.open, nullptr);
        lua_pushstring(L, library.name);
        lua_call(L, 1, 0);
    }
    close_library(L, nullptr);
    lua_getglobal(L, "next");
    lua_pushcclosure(L, pairs_charged, "pairs", 1);
    lua_setfield(L, -2, "pairs");
    lua_pushcfunction(L, protected_call, "pcall");
    lua_setfield(L, -2, "pcall");
    for (const char* library : {"string", "table", "utf8"}) {
        close_library(L, library);
        if (strcmp(library, "utf8") == 0) {
            lua_getglobal(L, library);
            lua_getfield(L, -1, "charpattern");
            lua_setfield(L, -3, "charpattern");
            lua_pop(L, 1);
        }
        if (strcmp(library, "string") == 0) {
            for (const luaL_Reg* entry = PATTERNS; entry->name; entry++) {
                lua_pushcfunction(L, entry->func, entry->name);
                lua_setfield(L, -2, entry->name);
            }
            lua_pushliteral(L, "");
            lua_getmetatable(L, -1);
            lua_pushvalue(L, -3);
            lua_setfield(L, -2, "__index");
            lua_setreadonly(L, -1, true);
            lua_pop(L, 2);
        }
        lua_setreadonly(L, -1, true);
        lua_setfield(L, -2, library);
    }
    for (const char* library : {"math", "bit32"}) {
        lua_getglobal(L, library);
        if (strcmp(library, "math") == 0)
            for (const char* name : NOT_OF_MATH) {
                lua_pushnil(L);
                lua_setfield(L, -2, name);
            }
        lua_setreadonly(L, -1, true);
        lua_setfield(L, -2, library);
    }
    set_functions(L, GLOBAL_FUNCTIONS);
    lua_newtable(L);
    set_functions(L, STATE_FUNCTIONS);
    lua_setreadonly(L, -1, true);
    lua_setfield(L, -2, "state");
    ask_host(L, ASK_CONFIG, lua_gettop(L) + 1);
    lua_setfield(L, -2, "config");
    // The new globals are all that there is.
    lua_cleartable(L, LUA_GLOBALSINDEX);
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, LUA_GLOBALSINDEX);
    }
    lua_setsafeenv(L, LUA_GLOBALSINDEX, true);
    lua_pushnil(L);
    set_metatable(L, TAG_EVENT, "event", event_index, event_namecall);
    lua_newtable(L);
    set_functions(L, ROOM_FUNCTIONS);
    lua_setreadonly(L, -1, true);
    set_metatable(L, TAG_ROOM, "room", room_index, room_namecall);
    lua_pushnil(L);
    set_metatable(L, TAG_WORDS, "words", nullptr, words_namecall);
    lua_setlightuserdataname(L, LIGHT_VERDICT, "verdict");
    return 0;
}
