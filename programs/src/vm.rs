//! The one place with `unsafe`: the virtual machine behind the shim, as a value that Rust may hold.
//!
//! Invariants:
//! - What the shim gives as a pointer and a length is read within the call it came with, and is never kept but in [`Nodes`], which
//!   live no longer than one call of the machine: within it nothing is collected, so that texts stay where they are.
//! - No Rust frame is below an error of Luau: the shim raises one only once Rust has answered.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::slice;

use banter_chat::program::Hook;

use crate::json::{Token, Tokens};
use crate::pattern;

/// Marks of a [`Node`], as in shim.h.
mod tag {
    pub const NIL: u32 = 0;
    pub const FALSE: u32 = 1;
    pub const TRUE: u32 = 2;
    pub const NUMBER: u32 = 3;
    pub const TEXT: u32 = 4;
    pub const LIST: u32 = 5;
    pub const MAP: u32 = 6;
    pub const TABLE: u32 = 7;
    pub const END: u32 = 8;
}

/// A value, or a part of one, as the shim has it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Node<'a> {
    tag: u32,
    length: u32,
    number: f64,
    text: *const u8,
    of: PhantomData<&'a [u8]>,
}

/// What a [`Node`] is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part<'a> {
    Nil,
    Bool(bool),
    Number(f64),
    Text(&'a [u8]),
    /// Its so many values follow.
    List(u32),
    /// Its so many pairs follow.
    Map(u32),
    /// Its keys and values follow, up to the end.
    Table,
    End,
    /// What JSON has nothing for.
    Other,
}

impl<'a> Node<'a> {
    pub fn new(part: Part<'a>) -> Self {
        let node = |tag, length, number| Node { tag, length, number, text: std::ptr::null(), of: PhantomData };
        match part {
            Part::Bool(false) => node(tag::FALSE, 0, 0.0),
            Part::Bool(true) => node(tag::TRUE, 0, 0.0),
            Part::Number(number) => node(tag::NUMBER, 0, number),
            Part::Text(text) => Node { text: text.as_ptr(), ..node(tag::TEXT, text.len() as u32, 0.0) },
            Part::List(length) => node(tag::LIST, length, 0.0),
            Part::Map(length) => node(tag::MAP, length, 0.0),
            Part::Nil | Part::Table | Part::End | Part::Other => node(tag::NIL, 0, 0.0),
        }
    }

    fn of_token(token: Token, tokens: &'a Tokens, source: &'a [u8]) -> Self {
        Node::new(match token {
            Token::Nil => Part::Nil,
            Token::Bool(value) => Part::Bool(value),
            Token::Number(number) => Part::Number(number),
            Token::Plain(from, to) => Part::Text(&source[from..to]),
            Token::Written(from, to) => Part::Text(&tokens.texts[from..to]),
            Token::List(length) => Part::List(length),
            Token::Map(length) => Part::Map(length),
        })
    }

    /// For an answer: the shim reads it before what it points to is touched again.
    fn forget_lifetime<'b>(self) -> Node<'b> {
        let Node { tag, length, number, text, of: PhantomData } = self;
        Node { tag, length, number, text, of: PhantomData }
    }

    pub fn part(&self) -> Part<'a> {
        match self.tag {
            tag::NIL => Part::Nil,
            tag::FALSE => Part::Bool(false),
            tag::TRUE => Part::Bool(true),
            tag::NUMBER => Part::Number(self.number),
            // SAFETY: a node of a text is made by `new` from a slice of 'a, or by the shim from a text of Luau, which stays for 'a
            // (see the head of this file).
            tag::TEXT => Part::Text(unsafe { slice_of(self.text, self.length as usize) }),
            tag::LIST => Part::List(self.length),
            tag::MAP => Part::Map(self.length),
            tag::TABLE => Part::Table,
            tag::END => Part::End,
            _ => Part::Other,
        }
    }
}

/// # Safety
/// `text` is good for `length` bytes during 'a, or null with a length of 0.
unsafe fn slice_of<'a>(text: *const u8, length: usize) -> &'a [u8] {
    if length == 0 || text.is_null() {
        return &[];
    }
    // SAFETY: as the caller says.
    unsafe { slice::from_raw_parts(text, length) }
}

/// The values that came with one call, in the order of their parts.
pub type Nodes<'a> = [Node<'a>];

/// What Rust answers the shim.
pub enum Answer<'h> {
    Nothing,
    /// A value that holds no other.
    Part(Part<'h>),
    /// A value, with the source that it was read out of.
    Tokens(&'h Tokens, &'h [u8]),
    TextAndNumber(&'h [u8], f64),
    /// The argument that was given, and a number.
    SameAndNumber(f64),
    Verdict(u32),
    Words(u32),
    /// An error that the program may catch.
    Error(&'h str),
    /// The end of the call.
    Fault,
    /// It would take more units than are left.
    Spent,
}

/// Who answers what a program asks for.
pub trait Host {
    /// Answers; `tables` are the parts of those arguments that are tables, one behind the other. Adds what it takes to `units`, and
    /// does nothing that would take more than `left`.
    fn ask<'h>(
        &'h mut self,
        what: u32,
        arguments: &[Node<'_>],
        tables: &Nodes<'_>,
        left: u32,
        units: &mut u32,
    ) -> Answer<'h>;
}

/// Room for the parts of tables that a machine keeps between its calls, so that a call makes none anew; what a larger value
/// needed is given back.
const KEPT_NODES_MAX: usize = 256;

/// Lists of parts, each empty between two calls.
#[derive(Default)]
struct Lists {
    nodes: Vec<Node<'static>>,
    answered: Vec<Node<'static>>,
}

/// The list with nothing in it, for another lifetime: its room stays.
fn emptied<'b>(mut list: Vec<Node<'_>>) -> Vec<Node<'b>> {
    list.clear();
    list.shrink_to(KEPT_NODES_MAX);
    list.into_iter().map(Node::forget_lifetime).collect()
}

/// What the shim's `host` points to, for one call of the machine.
struct Asked<'a> {
    host: &'a mut dyn Host,
    nodes: Vec<Node<'a>>,
    /// What is answered: read by the shim before it asks again.
    answered: Vec<Node<'a>>,
}

impl<'a> Asked<'a> {
    fn new(host: &'a mut dyn Host, lists: Lists) -> Self {
        Asked { host, nodes: lists.nodes, answered: lists.answered }
    }

    fn into_lists(self) -> Lists {
        Lists { nodes: emptied(self.nodes), answered: emptied(self.answered) }
    }
}

#[repr(C)]
struct Reply<'a> {
    answer: u32,
    units: u32,
    value: Node<'a>,
    nodes: *const c_void,
}

impl Reply<'_> {
    fn set(&mut self, answer: &Answer<'_>, answered: &mut Vec<Node<'_>>) {
        let number = |number: u32| Node::new(Part::Number(f64::from(number)));
        let (answer, value) = match answer {
            Answer::Nothing => (0, Node::new(Part::Nil)),
            Answer::Part(part) => (1, Node::new(*part).forget_lifetime()),
            Answer::Tokens(tokens, source) => (1, self.set_nodes(tokens, source, answered)),
            Answer::TextAndNumber(text, number) => {
                (2, Node { number: *number, ..Node::new(Part::Text(text)).forget_lifetime() })
            }
            Answer::SameAndNumber(number) => (3, Node::new(Part::Number(*number))),
            Answer::Verdict(verdict) => (4, number(*verdict)),
            Answer::Words(words) => (5, number(*words)),
            Answer::Error(error) => (6, Node::new(Part::Text(error.as_bytes())).forget_lifetime()),
            Answer::Fault => (7, Node::new(Part::Nil)),
            Answer::Spent => (8, Node::new(Part::Nil)),
        };
        (self.answer, self.value) = (answer, value);
    }

    /// Gives the one that there is, or lists all of them.
    fn set_nodes<'b>(&mut self, tokens: &Tokens, source: &[u8], answered: &mut Vec<Node<'_>>) -> Node<'b> {
        let mut nodes = tokens.list.iter().map(|token| Node::of_token(*token, tokens, source).forget_lifetime());
        if tokens.list.len() <= 1 {
            return nodes.next().unwrap_or(Node::new(Part::Nil)).forget_lifetime();
        }
        answered.clear();
        answered.extend(nodes);
        self.nodes = answered.as_ptr().cast();
        Node::new(Part::Nil)
    }
}

/// How much a call may take.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct VmLimits {
    pub units: u32,
    /// 0: none.
    pub watch_us: u32,
    pub bytes: u64,
    /// Not 0: the event is so large that one look at it takes long.
    pub is_large: u32,
}

#[repr(C)]
struct RawResult {
    fault: u32,
    units: u32,
    is_verdict: u32,
    verdict: u32,
    is_over_time: u32,
    message: *const u8,
    message_length: usize,
    trace: *const u8,
    trace_length: usize,
    bytes: u64,
}

impl RawResult {
    const EMPTY: RawResult = RawResult {
        fault: 0,
        units: 0,
        is_verdict: 0,
        verdict: 0,
        is_over_time: 0,
        message: std::ptr::null(),
        message_length: 0,
        trace: std::ptr::null(),
        trace_length: 0,
        bytes: 0,
    };
}

/// Why a run of the machine ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmFault {
    Cpu,
    Memory,
    /// The host said [`Answer::Fault`], and knows why.
    Host,
    /// An error of the program.
    Failed,
}

/// What came of a run.
pub struct Run<'v> {
    pub fault: Option<VmFault>,
    pub units: u32,
    /// The number of the verdict that the hook gave back.
    pub verdict: Option<u32>,
    /// Whether the watch ended it.
    pub is_over_time: bool,
    /// Of the error.
    pub message: &'v [u8],
    pub trace: &'v [u8],
}

#[repr(C)]
struct RawCompiled {
    bytecode: *mut c_char,
    length: usize,
    line: u32,
    column: u32,
    message: [u8; 512],
}

#[repr(C)]
struct RawVm {
    opaque: [u8; 0],
}

type Tell = extern "C" fn(told: *mut c_void, text: *const u8, length: usize, is_function: u32);

unsafe extern "C" {
    fn banter_compile(text: *const u8, length: usize, out: *mut RawCompiled);
    fn banter_free(bytecode: *mut c_char);
    fn banter_vm_new(host: *mut c_void) -> *mut RawVm;
    fn banter_vm_close(vm: *mut RawVm);
    fn banter_vm_load(
        vm: *mut RawVm,
        host: *mut c_void,
        name: *const c_char,
        bytecode: *const u8,
        length: usize,
        limits: *const VmLimits,
        out: *mut RawResult,
        line: *mut u32,
    );
    fn banter_vm_global(vm: *mut RawVm, name: *const c_char, number: *mut f64) -> u32;
    fn banter_vm_hook(vm: *mut RawVm, hook: u32, name: *const c_char);
    fn banter_vm_globals(vm: *mut RawVm, told: *mut c_void, tell: Tell);
    fn banter_vm_call(
        vm: *mut RawVm,
        host: *mut c_void,
        hook: u32,
        text: *const u8,
        length: usize,
        number: f64,
        limits: *const VmLimits,
        out: *mut RawResult,
    );
    fn banter_vm_step(vm: *mut RawVm, kib: i32) -> i32;
    fn banter_vm_bytes(vm: *mut RawVm) -> usize;
    fn banter_vm_allocated(vm: *mut RawVm) -> usize;
}

#[unsafe(no_mangle)]
extern "C" fn banter_host(
    host: *mut c_void,
    what: u32,
    arguments: *const Node<'static>,
    count: usize,
    reply: *mut Reply<'static>,
) {
    // SAFETY: the shim calls this only within a run, and gives back the pointer to the `Asked` of that run, which nothing else uses
    // meanwhile; `reply` is its own.
    let (asked, reply) = unsafe { (&mut *host.cast::<Asked<'_>>(), &mut *reply) };
    let arguments: &[Node<'_>] = if count == 0 {
        &[]
    } else {
        // SAFETY: so many of them stand in an array of the shim until this returns.
        unsafe { slice::from_raw_parts(arguments, count) }
    };
    let mut units = 0;
    let answer = asked.host.ask(what, arguments, &asked.nodes, reply.units, &mut units);
    // What is answered stays in the host until it is asked again, and the shim has read it by then.
    reply.set(&answer, &mut asked.answered);
    reply.units = units;
    asked.nodes.clear();
}

#[unsafe(no_mangle)]
extern "C" fn banter_emit(host: *mut c_void, node: *const Node<'static>) {
    // SAFETY: as in `banter_host`; the node is the shim's own.
    let (asked, node) = unsafe { (&mut *host.cast::<Asked<'_>>(), *node) };
    asked.nodes.push(node);
}

#[unsafe(no_mangle)]
extern "C" fn banter_match(
    text: *const u8,
    length: usize,
    from: usize,
    pattern: *const u8,
    pattern_length: usize,
    steps_max: u32,
    captures: *mut i64,
    steps: *mut u32,
    error: *mut *const c_char,
) -> usize {
    // SAFETY: two texts of Luau that are arguments of the function that asks.
    let (text, pattern) = unsafe { (slice_of(text, length), slice_of(pattern, pattern_length)) };
    // SAFETY: room for a pair of numbers for each capture and the whole, in a structure of the shim.
    let captures = unsafe { slice::from_raw_parts_mut(captures, 2 * (pattern::CAPTURES_MAX + 1)) };
    let mut took = 0;
    let found = pattern::search(text, from, pattern, steps_max, captures, &mut took);
    // SAFETY: two places of the shim.
    unsafe {
        *steps = took;
        if let Err(fault) = found {
            *error = fault.text().as_ptr();
        }
    }
    found.unwrap_or(0)
}

/// An error of a program's text, with its place from 1; 0 where it is not known.
pub struct CompileError {
    pub line: u32,
    pub column: u32,
    pub message: String,
}

/// Compiles a text. Takes much of the stack for what is nested deeply.
pub fn compile(text: &[u8]) -> Result<Bytecode, CompileError> {
    let mut out = RawCompiled { bytecode: std::ptr::null_mut(), length: 0, line: 0, column: 0, message: [0; 512] };
    // SAFETY: a slice, and a place for what comes of it.
    unsafe { banter_compile(text.as_ptr(), text.len(), &raw mut out) };
    if out.bytecode.is_null() {
        let length = out.message.iter().position(|byte| *byte == 0).unwrap_or(out.message.len());
        let message = String::from_utf8_lossy(&out.message[..length]).into_owned();
        return Err(CompileError { line: out.line, column: out.column, message });
    }
    // SAFETY: so many bytes were made there, and are ours until they are freed.
    let bytes = unsafe { slice_of(out.bytecode.cast(), out.length) }.into();
    // SAFETY: the shim made them, and they are freed once.
    unsafe { banter_free(out.bytecode) };
    Ok(Bytecode(bytes))
}

/// What [`compile`] made. Nothing else is ever loaded: Luau believes bytecode.
pub struct Bytecode(Box<[u8]>);

impl Bytecode {
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// A machine with one program.
pub struct Vm {
    raw: NonNull<RawVm>,
    lists: Lists,
}

// SAFETY: a machine has no state of a thread (Luau's VM has no thread-local variables, and its flags are only read), is entered
// through `&mut self` alone, and keeps no pointer to Rust between two runs; its memory is of malloc, which any thread frees. Its
// lists have nothing in them between two runs.
unsafe impl Send for Vm {}

impl Vm {
    /// Without a program yet; the host is asked for the configuration.
    pub fn new(host: &mut dyn Host) -> Self {
        let mut asked = Asked::new(host, Lists::default());
        // SAFETY: `asked` lives longer than the call, which is all that uses it.
        let vm = unsafe { banter_vm_new((&raw mut asked).cast()) };
        let raw = NonNull::new(vm).expect("the shim ends the process where it makes none");
        Vm { raw, lists: asked.into_lists() }
    }

    /// Runs the chunk, and freezes what it made. Beside what came of it: the line of a function that would change what outlives its
    /// call.
    pub fn load(
        &mut self,
        host: &mut dyn Host,
        name: &str,
        bytecode: &Bytecode,
        limits: VmLimits,
    ) -> (Run<'_>, Option<u32>) {
        let name = CString::new(name.replace('\0', "?")).expect("without a zero");
        let mut asked = Asked::new(host, Lists::default());
        let (mut out, mut line) = (RawResult::EMPTY, 0);
        // SAFETY: every pointer is to what lives longer than the call; the bytecode is of `compile`.
        unsafe {
            banter_vm_load(
                self.raw.as_ptr(),
                (&raw mut asked).cast(),
                name.as_ptr(),
                bytecode.0.as_ptr(),
                bytecode.0.len(),
                &raw const limits,
                &raw mut out,
                &raw mut line,
            );
        }
        (self.run(&out), (line > 0).then_some(line))
    }

    /// Whether that global is a function, and its number where it is one; none: there is none.
    pub fn global(&mut self, name: &str) -> Option<Global> {
        let name = CString::new(name).ok()?;
        let mut number = 0.0;
        // SAFETY: a text that ends with a zero, and a place for a number.
        match unsafe { banter_vm_global(self.raw.as_ptr(), name.as_ptr(), &raw mut number) } {
            0 => None,
            1 => Some(Global::Function),
            3 => Some(Global::Number(number)),
            _ => Some(Global::Other),
        }
    }

    /// Finds the function of a hook, once.
    pub fn find_hook(&mut self, hook: Hook) {
        let name = CString::new(hook.name()).expect("a name without a zero");
        // SAFETY: a text that ends with a zero.
        unsafe { banter_vm_hook(self.raw.as_ptr(), hook as u32, name.as_ptr()) }
    }

    /// The names of all globals, whether each is a function, and with a dot those of what is in their tables.
    pub fn globals(&mut self) -> Vec<(String, bool)> {
        extern "C" fn tell(told: *mut c_void, text: *const u8, length: usize, is_function: u32) {
            // SAFETY: the shim gives back the list of below, and a text of its own.
            let (told, text) = unsafe { (&mut *told.cast::<Vec<(String, bool)>>(), slice_of(text, length)) };
            told.push((String::from_utf8_lossy(text).into_owned(), is_function != 0));
        }
        let mut names: Vec<(String, bool)> = Vec::new();
        // SAFETY: `names` lives longer than the call, which is all that uses it.
        unsafe { banter_vm_globals(self.raw.as_ptr(), (&raw mut names).cast(), tell) };
        names
    }

    /// Calls a hook that was found, with a value beside the room. What it gave back, where that is no verdict, is given to `then`.
    pub fn call<'v, T>(
        &'v mut self,
        host: &mut dyn Host,
        hook: Hook,
        beside: Beside<'_>,
        limits: VmLimits,
        then: impl FnOnce(&Nodes<'_>) -> T,
    ) -> (Run<'v>, T) {
        let mut asked = Asked::new(host, std::mem::take(&mut self.lists));
        let mut out = RawResult::EMPTY;
        let (text, length, number) = match beside {
            Beside::Event => (std::ptr::null(), 0, -1.0),
            Beside::Number(number) => (std::ptr::null(), 0, number),
            Beside::Text(text) => (text.as_ptr(), text.len(), 0.0),
        };
        // SAFETY: every pointer is to what lives longer than the call.
        unsafe {
            banter_vm_call(
                self.raw.as_ptr(),
                (&raw mut asked).cast(),
                hook as u32,
                text,
                length,
                number,
                &raw const limits,
                &raw mut out,
            );
        }
        // Texts that the nodes point to are collected by `step` at the earliest, which needs the machine for itself again.
        let then = then(if out.fault == 0 { &asked.nodes } else { &[] });
        self.lists = asked.into_lists();
        (self.run(&out), then)
    }

    fn run(&self, out: &RawResult) -> Run<'_> {
        let fault = match out.fault {
            0 => None,
            1 => Some(VmFault::Cpu),
            2 => Some(VmFault::Memory),
            3 => Some(VmFault::Host),
            _ => Some(VmFault::Failed),
        };
        Run {
            fault,
            units: out.units,
            verdict: (out.is_verdict != 0).then_some(out.verdict),
            is_over_time: out.is_over_time != 0,
            // SAFETY: two arrays of the machine, which are written at its next run, and `self` is borrowed until then.
            message: unsafe { slice_of(out.message, out.message_length) },
            // SAFETY: as above.
            trace: unsafe { slice_of(out.trace, out.trace_length) },
        }
    }

    /// Collects garbage, for about so many KiB of work; whether more is left of this round.
    pub fn step(&mut self, kib: u32) -> bool {
        // SAFETY: out of a run.
        unsafe { banter_vm_step(self.raw.as_ptr(), kib as i32) != 0 }
    }

    /// Bytes of what there is, with garbage.
    pub fn bytes(&self) -> usize {
        // SAFETY: out of a run.
        unsafe { banter_vm_bytes(self.raw.as_ptr()) }
    }

    /// Bytes that the machine has of the system.
    pub fn allocated_bytes(&self) -> usize {
        // SAFETY: out of a run.
        unsafe { banter_vm_allocated(self.raw.as_ptr()) }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // SAFETY: made by `new`, closed once, and not used behind this.
        unsafe { banter_vm_close(self.raw.as_ptr()) }
    }
}

/// A global of a program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Global {
    Function,
    Number(f64),
    Other,
}

/// What a hook gets beside the room.
#[derive(Clone, Copy, Debug)]
pub enum Beside<'a> {
    Event,
    Number(f64),
    Text(&'a str),
}
