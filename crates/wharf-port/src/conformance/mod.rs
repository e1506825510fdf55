//! One suite that every back end must pass.
mod bench;
mod beyond;
mod exactly_once;
mod generations;
mod idle;
mod lab;
mod order;
mod ownership;
mod pool_empty;
mod posts;
mod real;
