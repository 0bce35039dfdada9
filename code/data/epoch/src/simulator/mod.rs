//! A deterministic simulation of producers, sealing and racing coordinators on a store with faults.
//!
//! One scheduler polls all actors in an order that a seed determines. Every call to the store or the target is a point
//! at which another actor may run, and at which a process may die. A process that dies loses its memory; its actor then
//! starts another one. `world` has the store, the clock and the faults, `actors` the processes, `run` one simulation
//! and its verdict, `suite` the tests.

mod actors;
mod run;
mod suite;
mod world;
