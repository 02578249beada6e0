// Values between Lua and Rust: arguments out, answers in, tables both ways.
#include "shim.h"

#include <string.h>

// As deep as a value may be: as JSON in a body.
constexpr int DEPTH_MAX = 64;
constexpr int ARGUMENTS_MAX = 8;
// What goes through the boundary and back costs beside the tick of the call.
constexpr uint64_t ASK_UNITS = 2;

void push_text(lua_State* L, const char* text, size_t length)
{
    if (length < LARGE_TEXT_BYTES) {
        lua_pushlstring(L, text, length);
    } else {
        luaL_Strbuf out;
        char* room = luaL_buffinitsize(L, &out, length);
        memcpy(room, text, length);
        luaL_pushresultsize(&out, length);
    }
    charge_alike(L);
}

static banter_node node_of(const TValue* value)
{
    banter_node node = {BANTER_OTHER, 0, 0, nullptr};
    switch (ttype(value)) {
    case LUA_TNIL:
        node.tag = BANTER_NIL;
        break;
    case LUA_TBOOLEAN:
        node.tag = bvalue(value) ? BANTER_TRUE : BANTER_FALSE;
        break;
    case LUA_TNUMBER:
        node.tag = BANTER_NUMBER;
        node.number = nvalue(value);
        break;
    case LUA_TSTRING:
        node.tag = BANTER_TEXT;
        node.text = svalue(value);
        node.length = tsvalue(value)->len;
        break;
    case LUA_TTABLE:
        node.tag = BANTER_TABLE;
        break;
    }
    return node;
}

void emit_value(lua_State* L, int index, int depth)
{
    banter_vm* vm = vm_of(L);
    index = lua_absindex(L, index);
    banter_node node = node_of(L->base + index - 1);
    charge(L, 1 + node.length / TEXT_BYTES_PER_UNIT);
    if (node.tag == BANTER_OTHER)
        luaL_error(L, "a %s is no JSON value", luaL_typename(L, index));
    banter_emit(vm->host, &node);
    if (node.tag != BANTER_TABLE)
        return;
    if (depth >= DEPTH_MAX)
        luaL_error(L, "a value is deeper than %d tables", DEPTH_MAX);
    luaL_checkstack(L, 4, "values");
    for (int at = 0; (at = lua_rawiter(L, index, at)) >= 0;) {
        int key = lua_type(L, -2);
        if (key != LUA_TSTRING && key != LUA_TNUMBER)
            luaL_error(L, "a %s is no key of a JSON value", luaL_typename(L, -2));
        banter_node key_node = node_of(L->top - 2);
        charge(L, 1 + key_node.length / TEXT_BYTES_PER_UNIT);
        banter_emit(vm->host, &key_node);
        emit_value(L, -1, depth + 1);
        lua_pop(L, 2);
    }
    banter_node end = {BANTER_END, 0, 0, nullptr};
    banter_emit(vm->host, &end);
}

void push_value(lua_State* L, const banter_node** at, int depth)
{
    const banter_node* node = (*at)++;
    switch (node->tag) {
    case BANTER_FALSE:
    case BANTER_TRUE:
        lua_pushboolean(L, node->tag == BANTER_TRUE);
        break;
    case BANTER_NUMBER:
        lua_pushnumber(L, node->number);
        break;
    case BANTER_TEXT:
        charge(L, node->length / TEXT_BYTES_PER_UNIT);
        push_text(L, node->text, node->length);
        break;
    case BANTER_LIST:
        charge(L, 1 + node->length);
        if (depth >= DEPTH_MAX)
            luaL_error(L, "a value is deeper than %d tables", DEPTH_MAX);
        luaL_checkstack(L, 4, "values");
        lua_createtable(L, int(node->length), 0);
        for (uint32_t number = 1; number <= node->length; number++) {
            push_value(L, at, depth + 1);
            lua_rawseti(L, -2, int(number));
        }
        break;
    case BANTER_MAP:
        charge(L, 1 + 2 * uint64_t(node->length));
        if (depth >= DEPTH_MAX)
            luaL_error(L, "a value is deeper than %d tables", DEPTH_MAX);
        luaL_checkstack(L, 4, "values");
        lua_createtable(L, 0, int(node->length));
        for (uint32_t number = 0; number < node->length; number++) {
            const banter_node* key = (*at)++;
            lua_pushlstring(L, key->text, key->length);
            charge_alike(L);
            push_value(L, at, depth + 1);
            lua_rawset(L, -3);
        }
        break;
    default:
        lua_pushnil(L);
    }
}

[[noreturn]] static void raise_text(lua_State* L, const char* text, size_t length)
{
    luaL_where(L, 1);
    lua_pushlstring(L, text, length);
    lua_concat(L, 2);
    lua_error(L);
}

static int push_answer(lua_State* L, const banter_reply& reply, int first)
{
    switch (reply.answer) {
    case BANTER_NOTHING:
        return 0;
    case BANTER_VALUE: {
        const banter_node* at = reply.nodes ? reply.nodes : &reply.value;
        push_value(L, &at, 0);
        return 1;
    }
    case BANTER_TEXT_AND_NUMBER:
        charge(L, reply.value.length / TEXT_BYTES_PER_UNIT);
        push_text(L, reply.value.text, reply.value.length);
        lua_pushnumber(L, reply.value.number);
        return 2;
    case BANTER_SAME_AND_NUMBER:
        // The text, behind the words themselves.
        lua_pushvalue(L, first + 1);
        lua_pushnumber(L, reply.value.number);
        return 2;
    case BANTER_VERDICT:
        lua_pushlightuserdatatagged(L, (void*)(uintptr_t)(uint32_t(reply.value.number) + 1), LIGHT_VERDICT);
        return 1;
    case BANTER_WORDS: {
        void* words = lua_newuserdatataggedwithmetatable(L, sizeof(uint32_t), TAG_WORDS);
        *(uint32_t*)words = uint32_t(reply.value.number);
        return 1;
    }
    case BANTER_FAULT:
        raise_fault(L, BANTER_HOST);
    case BANTER_SPENT:
        raise_fault(L, BANTER_CPU);
    default:
        raise_text(L, reply.value.text, reply.value.length);
    }
}

// Gives Rust the arguments from `first` on, and pushes what it answers.
int ask_host(lua_State* L, uint32_t what, int first)
{
    banter_vm* vm = vm_of(L);
    int count = lua_gettop(L) - first + 1;
    count = count < 0 ? 0 : count;
    if (count > ARGUMENTS_MAX)
        luaL_error(L, "%d arguments at most", ARGUMENTS_MAX);
    charge(L, ASK_UNITS);
    banter_node arguments[ARGUMENTS_MAX];
    for (int number = 0; number < count; number++) {
        arguments[number] = node_of(L->base + first + number - 1);
        if (arguments[number].tag == BANTER_TABLE)
            emit_value(L, first + number, 0);
    }
    banter_reply reply = {};
    reply.units = vm->units < vm->units_max ? vm->units_max - vm->units : 0;
    banter_host(vm->host, what, arguments, size_t(count), &reply);
    charge(L, reply.units);
    return push_answer(L, reply, first);
}
