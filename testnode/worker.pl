#!/usr/bin/perl
# The target's end of the control plane, started by the test node: see TestNode::Worker.
use v5.36;

use FindBin;
use lib map { "$FindBin::Bin/$_" } qw(lib pve ../perl/blib/lib ../perl/blib/arch);

use TestNode::Worker;

exit(TestNode::Worker->new(*STDIN, *STDOUT)->run);
