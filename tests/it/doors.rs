//! Every door and every verb once, from outside.

mod admin;
mod cli;
mod submit;
