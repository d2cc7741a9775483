//! The entry of the ABI: every function that can fail runs its body in [`guard`].

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::OnceLock;

use super::error::{Failure, Status, remember};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static PANIC_NOTE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The panic hook that was installed before. It is a static and not captured by the new hook, so
/// that the new hook has no captures, and its `Box` allocates no memory.
static PREVIOUS_HOOK: OnceLock<PanicHook> = OnceLock::new();

type PanicHook = Box<dyn Fn(&PanicHookInfo<'_>) + Sync + Send>;

/// Runs `body`, keeps the result as the calling thread's last one, and returns the status for C.
///
/// `function` is the C name, with which the message begins. A panic in `body` becomes
/// [`Status::Panic`], with the panic's text and location as the message. Nothing is printed.
pub fn guard(function: &str, body: impl FnOnce() -> Result<(), Failure>) -> i32 {
    // Unwind safety: the closure captures only raw pointers and plain values, which the caller
    // still owns. The value of a handle is in a mutex, which a panic poisons; later calls are
    // refused (see `handle`).
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        PREVIOUS_HOOK.get_or_init(install_quiet_hook);
        let _inside = Inside::enter();
        body()
    }));
    let outcome = outcome.unwrap_or_else(|payload| Err(panicked(payload)));
    remember(function, outcome)
}

/// While this value exists, the thread is marked as inside the library.
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

/// Installs a panic hook that prints nothing for a panic inside [`guard`], and returns the previous
/// one. Rust's own hook prints, which a library must not do. The new hook keeps text and location
/// for the error message. It passes all other panics to the previous hook, because a Rust program
/// that links this library may have a hook of its own.
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
    // Fails if the thread is ending and has destroyed its local values. Then the note is not
    // needed.
    let _ = PANIC_NOTE.try_with(|kept| kept.replace(Some(note)));
}

fn panicked(payload: Box<dyn Any + Send>) -> Failure {
    let note = PANIC_NOTE
        .try_with(RefCell::take)
        .ok()
        .flatten()
        .unwrap_or_else(|| payload_text(&*payload).to_owned());
    // Dropping the payload may panic again. That panic must not reach C either, and its own payload
    // is leaked.
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
