// A blind comparison: X and Y stand for A and B, dealt anew after every choice.
class Blind {
  constructor(random = Math.random) { this.random = random; this.votes = {a: 0, b: 0, same: 0}; this.deal(); }
  deal() { const flip = this.random() < 0.5; this.x = flip ? 'a' : 'b'; this.y = flip ? 'b' : 'a'; }
  choose(letter) { this.votes[letter === 'same' ? 'same' : this[letter]]++; this.deal(); }
  get rounds() { return this.votes.a + this.votes.b + this.votes.same; }

  // How often pure guessing is at least as lopsided: the two-sided sign test, ties left out.
  get chance() {
    const n = this.votes.a + this.votes.b, k = Math.max(this.votes.a, this.votes.b);
    let tail = 0, ways = 1;                                 // ways = n over i
    for (let i = 0; i <= n; i++) {
      if (i >= k) tail += ways;
      ways = ways * (n - i) / (i + 1);
    }
    return Math.min(1, 2 * tail / 2 ** n);
  }
}
