//! The one way in: every function of the ABI that can fail runs its body through [`guard`].

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::OnceLock;

use super::error::{Failure, Status, remember};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static PANIC_NOTE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The hook that was there before ours. A static and not a capture of ours: so neither of them
/// allocates.
static PREVIOUS_HOOK: OnceLock<PanicHook> = OnceLock::new();

type PanicHook = Box<dyn Fn(&PanicHookInfo<'_>) + Sync + Send>;

/// Runs `body`, keeps its outcome as the calling thread's last one, and gives the status to return
/// to C.
///
/// `function` is the C name, which starts the message. A panic in `body` ends here: it becomes
/// [`Status::Panic`], with the panic's text and place as message and nothing printed.
pub fn guard(function: &str, body: impl FnOnce() -> Result<(), Failure>) -> i32 {
    // Unwind safety: on a panic the closure's captures are only raw pointers and plain values that
    // the caller still owns; what lies behind a handle is in a mutex, which is poisoned and then
    // refused (see `handle`).
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        PREVIOUS_HOOK.get_or_init(install_quiet_hook);
        let _inside = Inside::enter();
        body()
    }));
    let outcome = outcome.unwrap_or_else(|payload| Err(panicked(payload)));
    remember(function, outcome)
}

/// Marks this thread as inside the library for as long as it lives.
struct Inside;

impl Inside {
    fn enter() -> Self {
        GUARDED.set(true);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        GUARDED.set(false);
    }
}

/// A library never prints, but Rust's own panic hook does. This one keeps the note of a panic
/// inside [`guard`] for the error message, and leaves all other panics to the hook that was there
/// (a Rust program that links us may have its own).
fn install_quiet_hook() -> PanicHook {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(|info| {
        if GUARDED.try_with(Cell::get).unwrap_or(false) {
            keep_note(info);
        } else if let Some(previous) = PREVIOUS_HOOK.get() {
            previous(info);
        }
    }));
    previous
}

fn keep_note(info: &PanicHookInfo<'_>) {
    let text = payload_text(info.payload());
    let note = match info.location() {
        Some(place) => format!("{text} ({}:{})", place.file(), place.line()),
        None => text.to_owned(),
    };
    // A thread whose locals are already gone has nobody left to read the note.
    let _ = PANIC_NOTE.try_with(|kept| kept.replace(Some(note)));
}

fn panicked(payload: Box<dyn Any + Send>) -> Failure {
    let note = PANIC_NOTE
        .try_with(RefCell::take)
        .ok()
        .flatten()
        .unwrap_or_else(|| payload_text(&*payload).to_owned());
    // The payload's own drop may panic, and that must not cross into C either; what it threw is
    // then given up.
    if let Err(again) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
    Failure::new(
        Status::Panic,
        format!("a defect in pve-tunnel, please report it: {note}"),
    )
}

fn payload_text(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "panic without a message"
    }
}
