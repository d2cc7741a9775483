//! A memory allocator that can overwrite what is freed.
//!
//! Tokens, tickets and keys pass through many types that do not wipe their memory: lines, decoded
//! JSON, `http::Uri`, buffers of TLS. So connector and listener wipe all memory of the heap that they
//! free. Other processes have the library loaded too, such as pveproxy, where the codec's speed
//! counts and no secret passes through. There it costs one load for each call.
// An allocator is an unsafe trait.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

/// The system's allocator, see the module.
pub(crate) struct WipingAllocator {
    wiping: AtomicBool,
}

impl WipingAllocator {
    pub(crate) const fn new() -> Self {
        Self {
            wiping: AtomicBool::new(false),
        }
    }

    /// Whether memory that is freed from now on is overwritten.
    pub(crate) fn set_wiping(&self, wiping: bool) {
        self.wiping.store(wiping, Ordering::SeqCst);
    }

    fn is_wiping(&self) -> bool {
        self.wiping.load(Ordering::Relaxed)
    }
}

// SAFETY: passes each call to the system's allocator, with the same layout. Before memory is freed,
// it may be overwritten: then its owner has given it up, and it has `layout.size()` bytes.
unsafe impl GlobalAlloc for WipingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller meets the requirements of this trait, which are also those of System.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if self.is_wiping() {
            // SAFETY: see the implementation. Unlike a plain write, the compiler does not remove it.
            unsafe { libc::explicit_bzero(pointer.cast(), layout.size()) };
        }
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.is_wiping() {
            // SAFETY: as above.
            return unsafe { System.realloc(pointer, layout, size) };
        }
        // The system's function would free the old place without wiping it.
        // SAFETY: the caller guarantees that the alignment is valid, and that the size is neither
        // zero nor above the limit. Both places have at least the smaller of the two sizes, and do
        // not overlap. The old place is freed only if there is a new one.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                std::ptr::copy_nonoverlapping(pointer, new, layout.size().min(size));
                self.dealloc(pointer, layout);
            }
            new
        }
    }
}
