// Compiles a program's text to bytecode; an error has its place.
#include "shim.h"

#include <exception>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "Luau/Allocator.h"
#include "Luau/ParseOptions.h"
#include "Luau/Parser.h"
#include "luacode.h"

extern "C" {

struct banter_compiled {
    // Of malloc; none: there is an error.
    char* bytecode;
    size_t length;
    // From 1; 0: not known.
    uint32_t line;
    uint32_t column;
    char message[512];
};

// Functions that a wrapper charges must come through their wrapper.
static const char* const CHARGED[] = {
    "string.sub", "string.byte", "string.char", "table.unpack", "tonumber", "tostring", nullptr,
};

static void fail(banter_compiled* out, uint32_t line, uint32_t column, const char* message)
{
    out->line = line;
    out->column = column;
    snprintf(out->message, sizeof(out->message), "%s", message);
}

void banter_compile(const char* text, size_t length, banter_compiled* out)
{
    memset(out, 0, sizeof(*out));
    try {
        Luau::Allocator allocator;
        Luau::AstNameTable names(allocator);
        Luau::ParseResult parsed = Luau::Parser::parse(text, length, names, allocator, Luau::ParseOptions());
        if (!parsed.errors.empty()) {
            const Luau::ParseError& first = parsed.errors.front();
            const Luau::Position& begin = first.getLocation().begin;
            return fail(out, begin.line + 1, begin.column + 1, first.getMessage().c_str());
        }
        lua_CompileOptions options = {};
        // Above 1, functions are inlined and loops unrolled: a text of few bytes could become a large program.
        options.optimizationLevel = 1;
        options.debugLevel = 1;
        options.disabledBuiltins = CHARGED;
        out->bytecode = luau_compile(text, length, &options, &out->length);
        if (!out->bytecode)
            return fail(out, 0, 0, "no memory to compile it");
        if (out->bytecode[0] == 0) {
            // The message begins with ":", the line, and ": ".
            char* end = nullptr;
            const char* message = out->bytecode + 1;
            char copied[512] = {};
            memcpy(copied, message, out->length - 1 < sizeof(copied) - 1 ? out->length - 1 : sizeof(copied) - 1);
            unsigned long line = copied[0] == ':' ? strtoul(copied + 1, &end, 10) : 0;
            fail(out, uint32_t(line), 0, end && end[0] == ':' && end[1] == ' ' ? end + 2 : copied);
            free(out->bytecode);
            out->bytecode = nullptr;
        }
    } catch (const std::exception& fault) {
        fail(out, 0, 0, fault.what());
    }
}

void banter_free(char* bytecode)
{
    free(bytecode);
}
}
