package Demo::Progress;

=head1 NAME

Demo::Progress - shows the progress of a migration

=head1 SYNOPSIS

    my $progress = Demo::Progress->new(*STDOUT);
    $progress->line('disk scsi0: mirroring');
    $progress->show('disk scsi0', $done, $total);

=head1 DESCRIPTION

Shows a progress bar on a terminal. Otherwise prints lines, at most one per second.

=cut

use v5.36;

use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use constant {
    # Characters. A line with a bar of this length fits 80 columns.
    BAR => 24,
    # Seconds between two lines, without a terminal.
    LINE_INTERVAL => 1,
    # Seconds between two updates of the bar, on a terminal.
    BAR_INTERVAL => 0.1,
};

=head1 METHODS

=head2 new

Class method: C<< Demo::Progress->new($handle) >>.

=head2 line

C<< $progress->line($text) >>: prints a line, above the bar.

=head2 show

C<< $progress->show($what, $done, $total) >>: shows the bytes done and the total number of bytes.

=head2 interval

Seconds between two updates. Earlier calls of C<show> have no effect.

=cut

sub new ($class, $handle) {
    $handle->autoflush(1);
    ## no critic (ProhibitInteractiveTest): what it proposes is not in Perl itself
    return bless { handle => $handle, terminal => -t $handle, last => 0 }, $class;
}

sub line ($self, $text) {
    print { $self->{handle} } $self->{terminal} ? "\r\e[K" : '', "$text\n";
    return;
}

sub show ($self, $what, $done, $total) {
    my $now = clock_gettime(CLOCK_MONOTONIC);
    my $start = ($self->{what} // '') ne $what;
    # The first line is printed after an interval, so that it can show a rate. The bar appears at
    # once.
    @$self{qw(what first since last)} = ($what, $done, $now, $self->{terminal} ? 0 : $now)
        if $start;
    return if $now - $self->{last} < $self->interval;
    $self->{last} = $now;
    my $seconds = $now - $self->{since};
    my $part = $total > 0 ? $done / $total : 0;
    $part = 1 if $part > 1;
    my $text = sprintf(
        '%-12s %4.0f %%  %6.0f of %.0f MiB',
        $what,
        100 * $part,
        $done / 1048576,
        $total / 1048576
    );
    $text .= sprintf('  %5.0f MB/s', ($done - $self->{first}) / $seconds / 1e6) if $seconds > 0;
    return $self->line($text) if !$self->{terminal};
    my $full = int(BAR * $part);
    print { $self->{handle} } "\r\e[K[", '#' x $full, '.' x (BAR - $full), "] $text";
    return;
}

sub interval ($self) { return $self->{terminal} ? BAR_INTERVAL : LINE_INTERVAL }

=head2 clear

Removes the bar.

=cut

sub clear ($self) {
    print { $self->{handle} } "\r\e[K" if $self->{terminal};
    delete $self->{what};
    return;
}

1;
