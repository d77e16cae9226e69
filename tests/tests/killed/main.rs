//! The daemon is killed at random points of everything it does, again and again. Whatever the point: what the client was
//! told is done is done, nothing half-made is shown, what is shown works, and nothing is left behind.
//!
//! Each test prints its seed when it fails; `STRATUS_SEED` has the same points chosen again, and `STRATUS_KILLS` says how
//! many there are of each kind of step.

mod build;
mod machines;
#[path = "../../microvm_kernel.rs"]
mod microvm_kernel;
mod point;
mod rounds;
mod steps;

#[test]
fn while_it_pulls() {
    rounds::run(steps::Pull::default());
}

#[test]
fn while_it_creates() {
    rounds::run(steps::Create);
}

#[test]
fn while_it_starts() {
    rounds::run(steps::Start::default());
}

#[test]
fn while_it_stops() {
    rounds::run(steps::Stop::default());
}

#[test]
fn while_it_ends_what_goes_by_itself() {
    rounds::run(steps::EndForGood);
}

#[test]
fn while_it_ends_and_the_keeper_with_it() {
    rounds::run(steps::EndWithKeeper::default());
}

#[test]
fn while_it_removes() {
    rounds::run(steps::Remove);
}

#[test]
fn while_it_runs_something_in_a_container() {
    rounds::run(steps::Exec);
}

#[test]
fn while_it_commits() {
    rounds::run(steps::Commit);
}

#[test]
fn while_it_changes_networks_and_volumes() {
    rounds::run(steps::Things);
}

#[test]
fn while_it_pauses() {
    rounds::run(steps::Pause);
}

#[test]
fn while_it_starts_a_machine() {
    machines::run_rounds(machines::Begin);
}

#[test]
fn while_one_with_a_volume_comes_into_a_machine() {
    machines::run_rounds(machines::Come);
}

#[test]
fn while_it_runs_something_in_a_machine() {
    machines::run_rounds(machines::Exec);
}

#[test]
fn while_it_saves_a_machine_and_rolls_it_back() {
    machines::run_rounds(machines::Save);
}

#[test]
fn while_it_rolls_back_a_machine_that_does_not_run() {
    machines::run_rounds(machines::RollBack);
}

#[test]
fn while_it_suspends_a_machine_and_resumes_it() {
    machines::run_rounds(machines::Suspend);
}

#[test]
fn while_it_suspends_a_machine_that_ends_by_itself_then() {
    machines::run_rounds(machines::SuspendAndEnd::default());
}

#[test]
fn while_it_forks_a_machine() {
    machines::run_rounds(machines::Fork);
}

#[test]
fn while_it_ends_a_machine() {
    machines::run_rounds(machines::End);
}

#[test]
fn while_it_builds() {
    rounds::run(build::Build::default());
}
