// The functions of `string` that cut texts: the matcher of patterns is Rust's, here is what Lua's library does around it.
#include "shim.h"

#include <string.h>

namespace {

constexpr int CAPTURES_MAX = 32;
constexpr int64_t POSITION = -2;

struct Match {
    int64_t captures[2 * (CAPTURES_MAX + 1)];
    // With the whole, which is the first; 0: there is none.
    size_t count;
};

void run_match(lua_State* L, const char* text, size_t length, size_t from, const char* pattern, size_t pattern_length, Match* out)
{
    banter_vm* vm = vm_of(L);
    uint32_t steps = 0;
    const char* error = nullptr;
    uint32_t left = vm->units < vm->units_max ? vm->units_max - vm->units : 0;
    // A step of the matcher takes a quarter of what a step of a loop does.
    uint32_t steps_max = left > UINT32_MAX / 4 - 1 ? UINT32_MAX : (left + 1) * 4;
    out->count = banter_match(text, length, from, pattern, pattern_length, steps_max, out->captures, &steps, &error);
    charge(L, 1 + steps / 4);
    if (error)
        luaL_error(L, "%s", error);
}

void push_capture(lua_State* L, const char* text, const Match& match, size_t number)
{
    int64_t begin = match.captures[2 * number], length = match.captures[2 * number + 1];
    if (length == POSITION)
        return lua_pushnumber(L, double(begin + 1));
    charge(L, uint64_t(length) / TEXT_BYTES_PER_UNIT);
    push_text(L, text + begin, size_t(length));
}

// The captures, or the whole where there are none.
int push_captures(lua_State* L, const char* text, const Match& match)
{
    luaL_checkstack(L, CAPTURES_MAX + 2, "captures");
    if (match.count == 1) {
        push_capture(L, text, match, 0);
        return 1;
    }
    for (size_t number = 1; number < match.count; number++)
        push_capture(L, text, match, number);
    return int(match.count) - 1;
}

size_t first_byte(lua_State* L, int index, size_t length)
{
    double first = luaL_optnumber(L, index, 1);
    if (first < 0)
        first += double(length) + 1;
    if (!(first >= 1))
        first = 1;
    return first > double(length) + 1 ? length + 1 : size_t(first) - 1;
}

int find_or_match(lua_State* L, bool is_find)
{
    size_t length = 0, pattern_length = 0;
    const char* text = luaL_checklstring(L, 1, &length);
    const char* pattern = luaL_checklstring(L, 2, &pattern_length);
    size_t from = first_byte(L, 3, length);
    if (from > length) {
        lua_pushnil(L);
        return 1;
    }
    Match match = {};
    if (is_find && lua_toboolean(L, 4)) {
        charge(L, (length - from) / TEXT_BYTES_PER_UNIT + pattern_length / TEXT_BYTES_PER_UNIT);
        const void* there = pattern_length == 0 ? text + from : memmem(text + from, length - from, pattern, pattern_length);
        match.count = there ? 1 : 0;
        match.captures[0] = there ? (const char*)there - text : 0;
        match.captures[1] = int64_t(pattern_length);
    } else {
        run_match(L, text, length, from, pattern, pattern_length, &match);
    }
    if (match.count == 0) {
        lua_pushnil(L);
        return 1;
    }
    if (!is_find)
        return push_captures(L, text, match);
    lua_pushnumber(L, double(match.captures[0] + 1));
    lua_pushnumber(L, double(match.captures[0] + match.captures[1]));
    return match.count == 1 ? 2 : 2 + push_captures(L, text, match);
}

int string_find(lua_State* L)
{
    return find_or_match(L, true);
}

int string_match(lua_State* L)
{
    return find_or_match(L, false);
}

int next_match(lua_State* L)
{
    size_t length = 0, pattern_length = 0;
    const char* text = lua_tolstring(L, lua_upvalueindex(1), &length);
    const char* pattern = lua_tolstring(L, lua_upvalueindex(2), &pattern_length);
    size_t from = size_t(lua_tonumber(L, lua_upvalueindex(3)));
    Match match = {};
    if (from <= length)
        run_match(L, text, length, from, pattern, pattern_length, &match);
    if (match.count == 0)
        return 0;
    // Behind an empty match the next begins one further.
    int64_t end = match.captures[0] + match.captures[1];
    lua_pushnumber(L, double(match.captures[1] == 0 ? end + 1 : end));
    lua_replace(L, lua_upvalueindex(3));
    return push_captures(L, text, match);
}

int string_gmatch(lua_State* L)
{
    luaL_checklstring(L, 1, nullptr);
    luaL_checklstring(L, 2, nullptr);
    lua_settop(L, 2);
    lua_pushnumber(L, 0);
    lua_pushcclosure(L, next_match, "gmatch", 3);
    return 1;
}

void add_expanded(lua_State* L, luaL_Strbuf* out, const char* text, const Match& match)
{
    size_t length = 0;
    const char* news = lua_tolstring(L, 3, &length);
    charge(L, length / TEXT_BYTES_PER_UNIT);
    for (size_t at = 0; at < length; at++) {
        if (news[at] != '%') {
            luaL_addchar(out, news[at]);
            continue;
        }
        char mark = ++at < length ? news[at] : '\0';
        if (mark == '%') {
            luaL_addchar(out, '%');
        } else if (mark >= '0' && mark <= '9') {
            size_t number = size_t(mark - '0');
            // Without captures, %1 is the whole too.
            if (number == 1 && match.count == 1)
                number = 0;
            if (number >= match.count)
                luaL_error(L, "invalid capture index %%%d in replacement string", int(mark - '0'));
            push_capture(L, text, match, number);
            luaL_addvalue(out);
        } else {
            luaL_error(L, "invalid use of '%%' in replacement string");
        }
    }
}

void add_replacement(lua_State* L, luaL_Strbuf* out, const char* text, const Match& match, int type)
{
    if (type == LUA_TNUMBER || type == LUA_TSTRING)
        return add_expanded(L, out, text, match);
    if (type == LUA_TFUNCTION) {
        lua_pushvalue(L, 3);
        lua_call(L, push_captures(L, text, match), 1);
    } else {
        push_capture(L, text, match, match.count > 1 ? 1 : 0);
        lua_gettable(L, 3);
    }
    if (!lua_toboolean(L, -1)) {
        lua_pop(L, 1);
        push_capture(L, text, match, 0);
    } else if (!lua_isstring(L, -1)) {
        luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
    }
    luaL_addvalue(out);
}

int string_gsub(lua_State* L)
{
    size_t length = 0, pattern_length = 0;
    const char* text = luaL_checklstring(L, 1, &length);
    const char* pattern = luaL_checklstring(L, 2, &pattern_length);
    int type = lua_type(L, 3);
    luaL_argexpected(L, type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TFUNCTION || type == LUA_TTABLE, 3,
        "string/function/table");
    double max = luaL_optnumber(L, 4, double(length) + 1);
    bool is_anchored = pattern_length > 0 && pattern[0] == '^';
    charge(L, length / TEXT_BYTES_PER_UNIT);
    lua_settop(L, 4);
    luaL_Strbuf out;
    luaL_buffinit(L, &out);
    size_t from = 0;
    double count = 0;
    while (count < max) {
        Match match = {};
        run_match(L, text, length, from, pattern, pattern_length, &match);
        if (match.count == 0)
            break;
        count++;
        size_t begin = size_t(match.captures[0]), end = begin + size_t(match.captures[1]);
        luaL_addlstring(&out, text + from, begin - from);
        add_replacement(L, &out, text, match, type);
        from = end;
        if (end == begin) {
            if (end >= length)
                break;
            luaL_addchar(&out, text[from++]);
        }
        if (is_anchored)
            break;
    }
    if (from < length)
        luaL_addlstring(&out, text + from, length - from);
    luaL_pushresult(&out);
    lua_pushnumber(L, count);
    return 2;
}

int string_sub(lua_State* L)
{
    size_t length = 0;
    const char* text = luaL_checklstring(L, 1, &length);
    double first = luaL_checknumber(L, 2), last = luaL_optnumber(L, 3, -1), bytes = double(length);
    first = first < 0 ? first + bytes + 1 : first;
    last = last < 0 ? last + bytes + 1 : last;
    first = first >= 1 ? first : 1;
    last = last <= bytes ? last : bytes;
    // So that what is no number is an empty text.
    bool is_some = first <= last && last >= 1;
    size_t count = is_some ? size_t(last) - size_t(first) + 1 : 0;
    charge(L, count / TEXT_BYTES_PER_UNIT);
    push_text(L, is_some ? text + size_t(first) - 1 : "", count);
    return 1;
}

int string_split(lua_State* L)
{
    size_t length = 0, between_length = 0;
    const char* text = luaL_checklstring(L, 1, &length);
    const char* between = luaL_optlstring(L, 2, ",", &between_length);
    charge(L, length / TEXT_BYTES_PER_UNIT);
    lua_newtable(L);
    const char* end = text + length;
    for (int number = 1;; number++) {
        const char* found = nullptr;
        if (between_length == 0)
            found = text + 1 < end ? text + 1 : nullptr;
        else
            found = (const char*)memmem(text, size_t(end - text), between, between_length);
        const char* piece_end = found ? found : end;
        charge(L, 1);
        push_text(L, text, size_t(piece_end - text));
        lua_rawseti(L, -2, number);
        if (!found)
            return 1;
        text = found + between_length;
    }
}
}

const luaL_Reg PATTERNS[] = {
    {"find", string_find}, {"match", string_match}, {"gmatch", string_gmatch}, {"gsub", string_gsub}, {"sub", string_sub},
    {"split", string_split}, {nullptr, nullptr},
};
