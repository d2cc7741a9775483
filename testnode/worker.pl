#!/usr/bin/perl
# The worker of the test node, which serves the control plane. See TestNode::Worker.
use v5.36;

use FindBin;
use lib map { "$FindBin::Bin/$_" } qw(lib pve ../perl/blib/lib ../perl/blib/arch);

use TestNode::Worker;

exit(TestNode::Worker->new(*STDIN, *STDOUT)->run);
