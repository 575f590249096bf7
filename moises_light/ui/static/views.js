// The playhead on Plotly's pictures, and a click on them that seeks.
studioViews();
function studioViews() {
  const place = (t) => {
    for (const plot of document.querySelectorAll('#view .js-plotly-plot')) {
      const layout = plot._fullLayout;
      if (!layout || !layout.xaxis) continue;
      let line = plot.querySelector('.ml-playhead');
      if (!line) {
        line = document.createElement('div'); line.className = 'ml-playhead';
        plot.style.position = 'relative'; plot.append(line);
      }
      const axis = layout.xaxis, x = axis._offset + axis.d2p(t), size = layout._size;
      line.style.cssText = `left:${x}px;top:${size.t}px;height:${size.h}px;` + (x < axis._offset || x > axis._offset + axis._length ? 'display:none' : '');
    }
  };
  // of the whole page, so that a picture that has just come can be clicked at once
  document.addEventListener('click', (event) => {
    const plot = event.target.closest && event.target.closest('#view .js-plotly-plot'), axis = plot && plot._fullLayout && plot._fullLayout.xaxis;
    if (!axis || event.target.closest('.modebar, .colorbar')) return;
    const x = event.clientX - plot.getBoundingClientRect().left - axis._offset;
    if (x >= 0 && x <= axis._length) window.studio.seek(axis.p2d(x));
  }, true);
  window.studio.watch(place);
  setInterval(() => place(window.studio.now()), 300);
}
