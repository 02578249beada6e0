//! End to end: rooms with a program in Luau, from the file that the operator writes to what people in the room are told.

mod beside;
mod harm;
mod hooks;
mod lasting;
mod operating;
mod seams;
mod setup;
mod storm;
mod swaps;
mod timers;
mod tool;
mod verdicts;
mod views;
